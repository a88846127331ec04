package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority is a certificate authority of a test's own cluster.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t *testing.T, path, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// writeKey writes both halves of a key and returns their files.
func writeKey(t *testing.T, dir, name string, key *ecdsa.PrivateKey) (private, public string) {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, filepath.Join(dir, name+".key"), "EC PRIVATE KEY", der),
		writePEM(t, filepath.Join(dir, name+".pub"), "PUBLIC KEY", pub)
}

// template is what the certificates here have in common.
func template(name string, groups ...string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // never fails
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: groups},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	key := newKey(t, elliptic.P256())
	c := template("test-kube")
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, "ca.crt"), "CERTIFICATE", der)
	return &authority{dir, c, key}
}

// issue makes a certificate for loopback servers and for clients, and returns
// its files.
func (a *authority) issue(t *testing.T, name string, groups ...string) (cert, key string) {
	t.Helper()
	k := newKey(t, elliptic.P256())
	c := template(name, groups...)
	c.KeyUsage = x509.KeyUsageDigitalSignature
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	c.DNSNames = []string{"localhost", "kubernetes.default.svc"}
	c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	key, _ = writeKey(t, a.dir, name, k)
	return writePEM(t, filepath.Join(a.dir, name+".crt"), "CERTIFICATE", der), key
}

// hostKeyDocuments writes self-signed certificates with a host key's kind of key
// (P-521), which secexec takes with --no-verify, and returns their paths.
func hostKeyDocuments(t *testing.T, count int) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for i := range count {
		key, c := newKey(t, elliptic.P521()), template(name("machine", i))
		der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, writePEM(t, filepath.Join(dir, c.Subject.CommonName+".crt"), "CERTIFICATE", der))
	}
	return paths
}
