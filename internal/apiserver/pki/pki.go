// Package pki holds the keys and certificates of one cluster: its certificate authority, the API server's own
// certificates, and the key that signs service account tokens.
//
// Invariants: every key is ECDSA P-256; every file with a key has mode 0600 and is replaced atomically; the authority and
// the signing key, once written, never change, for everything issued before depends on them.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/util/keyutil"
)

const (
	authorityValidity   = 20 * 365 * 24 * time.Hour
	certificateValidity = 5 * 365 * 24 * time.Hour
	// renewBefore is how long before its end a stored certificate is replaced. It happens when the daemon starts, so it
	// is longer than a daemon is expected to run.
	renewBefore = 2 * 365 * 24 * time.Hour
	// clockSkew is how far another machine's clock may be behind ours.
	clockSkew = 5 * time.Minute

	// KubeletClientUser is whom the API server is to kubelets (the name that kubeadm gives it).
	KubeletClientUser = "kube-apiserver-kubelet-client"
)

// PKI is safe for concurrent use.
type PKI struct {
	dir   string
	ca    *x509.Certificate
	caKey *ecdsa.PrivateKey
	caPEM []byte
	sa    *ecdsa.PrivateKey
}

// Open reads dir, making whatever is missing. It is idempotent.
func Open(dir string) (*PKI, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make folder for certificates: %w", err)
	}
	p := &PKI{dir: dir}
	var err error
	if p.sa, err = p.signingKey(); err != nil {
		return nil, fmt.Errorf("cannot load service account signing key: %w", err)
	}
	if err := p.authority(); err != nil {
		return nil, fmt.Errorf("cannot load certificate authority: %w", err)
	}
	if _, err := p.stored("apiserver-kubelet-client", kubeletClient()); err != nil {
		return nil, err
	}
	return p, nil
}

// CA is the authority's certificate in PEM.
func (p *PKI) CA() []byte { return slices.Clone(p.caPEM) }

// CAPool verifies both servers and clients of this cluster.
func (p *PKI) CAPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.ca)
	return pool
}

// CAFile, KubeletClientCertFile and KubeletClientKeyFile are for libraries that want paths.
func (p *PKI) CAFile() string { return filepath.Join(p.dir, "ca.crt") }
func (p *PKI) KubeletClientCertFile() string {
	return filepath.Join(p.dir, "apiserver-kubelet-client.crt")
}
func (p *PKI) KubeletClientKeyFile() string {
	return filepath.Join(p.dir, "apiserver-kubelet-client.key")
}

// ServiceAccountKey signs service account tokens.
func (p *PKI) ServiceAccountKey() *ecdsa.PrivateKey { return p.sa }

// APIServing returns the API server's certificate for the given names and addresses. A stored one is used while it
// covers exactly these and is far from its end.
func (p *PKI) APIServing(names []string, ips []net.IP) (*Pair, error) {
	return p.stored("apiserver", x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    names,
		IPAddresses: ips,
	})
}

// KubeletServing issues a certificate for a node's HTTPS API, in memory only. Its subject is what a kubelet's is
// (kubernetes.io/kubelet-serving: organization system:nodes, common name system:node:NAME).
func (p *PKI) KubeletServing(node string, ips []net.IP) (tls.Certificate, error) {
	pair, err := p.issue(x509.Certificate{
		Subject:     pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{node},
		IPAddresses: ips,
	})
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot issue serving certificate of node %q: %w", node, err)
	}
	return tls.X509KeyPair(pair.Cert, pair.Key)
}

// Client issues a certificate by which a client is the given user with the given groups, in memory only.
func (p *PKI) Client(user string, groups ...string) (*Pair, error) {
	pair, err := p.issue(x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot issue client certificate of %q: %w", user, err)
	}
	return pair, nil
}

func kubeletClient() x509.Certificate {
	return x509.Certificate{
		Subject:     pkix.Name{CommonName: KubeletClientUser},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func (p *PKI) authority() error {
	pair, cert, err := load(filepath.Join(p.dir, "ca"))
	switch {
	case err == nil:
	case os.IsNotExist(err):
		if pair, cert, err = newAuthority(); err != nil {
			return err
		}
		if err := pair.save(filepath.Join(p.dir, "ca")); err != nil {
			return err
		}
	default:
		return err
	}
	key, err := parseKey(pair.Key)
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return fmt.Errorf("%s.key is not the key of %s.crt", filepath.Join(p.dir, "ca"), filepath.Join(p.dir, "ca"))
	}
	p.ca, p.caKey, p.caPEM = cert, key, pair.Cert
	return nil
}

func newAuthority() (*Pair, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	t := &x509.Certificate{
		// The serial tells apart the authorities of clusters that were made one after the other at the same address.
		Subject:               pkix.Name{CommonName: "peapod-ca"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(authorityValidity),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	return sign(t, t, key, key)
}

func (p *PKI) issue(t x509.Certificate) (*Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t.NotBefore, t.NotAfter = now.Add(-clockSkew), now.Add(certificateValidity)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	pair, _, err := sign(&t, p.ca, key, p.caKey)
	return pair, err
}

func sign(t, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (*Pair, *x509.Certificate, error) {
	var err error
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	pair, err := newPair(der, key)
	return pair, cert, err
}

// stored returns the pair of files name.crt and name.key, issued anew unless it is signed by the authority, good for a
// while, and for the same subject and names as t.
func (p *PKI) stored(name string, t x509.Certificate) (*Pair, error) {
	path := filepath.Join(p.dir, name)
	pair, cert, err := load(path)
	if err == nil && p.covers(cert, &t) {
		return pair, nil
	}
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("cannot load certificate %s: %w", name, err)
	}
	if pair, err = p.issue(t); err != nil {
		return nil, fmt.Errorf("cannot issue certificate %s: %w", name, err)
	}
	if err := pair.save(path); err != nil {
		return nil, fmt.Errorf("cannot store certificate %s: %w", name, err)
	}
	return pair, nil
}

func (p *PKI) covers(cert, t *x509.Certificate) bool {
	return cert.CheckSignatureFrom(p.ca) == nil &&
		time.Until(cert.NotAfter) > renewBefore &&
		cert.Subject.String() == t.Subject.String() &&
		slices.Equal(cert.DNSNames, t.DNSNames) &&
		slices.EqualFunc(cert.IPAddresses, t.IPAddresses, net.IP.Equal)
}

func (p *PKI) signingKey() (*ecdsa.PrivateKey, error) {
	path := filepath.Join(p.dir, "sa.key")
	data, err := os.ReadFile(path)
	if err == nil {
		return parseKey(data)
	}
	if !os.IsNotExist(err) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if data, err = keyutil.MarshalPrivateKeyToPEM(key); err != nil {
		return nil, err
	}
	return key, writeFile(path, data)
}
