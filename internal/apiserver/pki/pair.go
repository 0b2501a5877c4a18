package pki

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"

	"k8s.io/client-go/util/keyutil"
)

// Pair is a certificate and its private key, in PEM.
type Pair struct{ Cert, Key []byte }

func newPair(der []byte, key *ecdsa.PrivateKey) (*Pair, error) {
	k, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, err
	}
	return &Pair{Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), Key: k}, nil
}

// load reads path.crt and path.key, which must belong together.
func load(path string) (*Pair, *x509.Certificate, error) {
	cert, err := os.ReadFile(path + ".crt")
	if err != nil {
		return nil, nil, err
	}
	key, err := os.ReadFile(path + ".key")
	if err != nil {
		return nil, nil, err
	}
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, nil, err
	}
	return &Pair{cert, key}, c.Leaf, nil
}

// save writes the key first: a crash in between leaves a pair that load reports as missing, not one that does not match.
func (p *Pair) save(path string) error {
	if err := os.Remove(path + ".crt"); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := writeFile(path+".key", p.Key); err != nil {
		return err
	}
	return writeFile(path+".crt", p.Cert)
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	k, err := keyutil.ParsePrivateKeyPEM(data)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("not an ECDSA key")
	}
	return key, nil
}

// writeFile replaces a file atomically, durably, with mode 0600.
func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
