package pki

import (
	"bytes"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func open(t *testing.T, dir string) *PKI {
	t.Helper()
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOpenAgainKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	if !bytes.Equal(a.CA(), b.CA()) {
		t.Error("the authority changed")
	}
	if !a.ServiceAccountKey().Equal(b.ServiceAccountKey()) {
		t.Error("the signing key changed")
	}
}

func TestFilesArePrivate(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	if _, err := p.APIServing([]string{"localhost"}, nil); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 7 {
		t.Errorf("got %v", files)
	}
	for _, f := range files {
		if fi, err := f.Info(); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, error %v", f.Name(), fi.Mode(), err)
		}
	}
}

func TestServingCertificateFollowsNames(t *testing.T) {
	p := open(t, t.TempDir())
	serving := func(names []string, ip string) []byte {
		t.Helper()
		pair, err := p.APIServing(names, []net.IP{net.ParseIP(ip)})
		if err != nil {
			t.Fatal(err)
		}
		return pair.Cert
	}
	first := serving([]string{"localhost", "host"}, "127.0.0.1")
	if !bytes.Equal(first, serving([]string{"localhost", "host"}, "127.0.0.1")) {
		t.Error("issued anew for the same names")
	}
	if bytes.Equal(first, serving([]string{"localhost", "other"}, "127.0.0.1")) {
		t.Error("kept for another name")
	}
	if bytes.Equal(first, serving([]string{"localhost", "host"}, "192.0.2.1")) {
		t.Error("kept for another address")
	}
}

func TestCertificatesVerify(t *testing.T) {
	p := open(t, t.TempDir())
	node, err := p.KubeletServing("node", []net.IP{net.ParseIP("192.0.2.7")})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node", "192.0.2.7"} {
		if _, err := node.Leaf.Verify(x509.VerifyOptions{Roots: p.CAPool(), DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, client, err := load(filepath.Join(p.dir, "apiserver-kubelet-client"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Verify(x509.VerifyOptions{Roots: p.CAPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := client.Verify(x509.VerifyOptions{Roots: p.CAPool()}); err == nil {
		t.Error("a client certificate passes as a server's")
	}
}

func TestCertificateOfAnotherAuthorityIsReplaced(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	before, err := p.APIServing([]string{"localhost"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"ca.crt", "ca.key"} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	after, err := open(t, dir).APIServing([]string{"localhost"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(before.Cert, after.Cert) {
		t.Error("kept")
	}
}

func TestCorruptAuthorityIsAnError(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Error("silently replaced")
	}
}
