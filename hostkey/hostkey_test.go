package hostkey_test

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/hostkey/hostkeytest"
)

func parse(t testing.TB, e *hostkeytest.Entity) *hostkey.Document {
	t.Helper()
	doc, warnings, err := hostkey.Parse(e.CertPEM())
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return doc
}

func TestParse(t *testing.T) {
	t.Parallel()
	pki := must(hostkeytest.New())(t)
	host := must(pki.Host("h"))(t)
	p384 := must(hostkeytest.Issue(&pki.Signing, x509.Certificate{}, elliptic.P384()))(t)
	doc, warnings, err := hostkey.Parse(append(host.CertPEM(), pki.Root.CertPEM()...))
	if err != nil || len(warnings) != 1 || !doc.Cert.Equal(host.Cert) {
		t.Errorf("two certificates: %v %v", warnings, err)
	}
	if _, _, err := hostkey.Parse(host.Cert.Raw); err != nil {
		t.Errorf("DER: %v", err)
	}
	if _, _, err := hostkey.Parse(p384.CertPEM()); !errors.Is(err, hostkey.ErrCurve) {
		t.Errorf("P-384: %v", err)
	}
	key, err := host.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty": nil, "text": []byte("hello"), "a private key": key, "too large": make([]byte, hostkey.MaxSize+1),
		"PEM around nothing": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"}),
	} {
		if _, _, err := hostkey.Parse(data); !errors.Is(err, hostkey.ErrDocument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPrivateKeyMatchesDocument(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "host")
	host, err := hostkeytest.WriteHost(dir, "h")
	if err != nil {
		t.Fatal(err)
	}
	priv := must(hostkey.ParsePrivate(must(os.ReadFile(filepath.Join(dir, "host.key")))(t)))(t)
	hash := must(hostkey.Hash(priv.PublicKey()))(t)
	if doc := parse(t, host); hash != doc.Hash() {
		t.Error("private key and document differ")
	}
	info := must(os.Stat(filepath.Join(dir, "host.key")))(t)
	if info.Mode() != 0o600 {
		t.Errorf("host.key has mode %v", info.Mode())
	}
	for name, text := range map[string][]byte{"nothing": nil, "a certificate": host.CertPEM()} {
		if _, err := hostkey.ParsePrivate(text); !errors.Is(err, hostkey.ErrPrivateKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPointRefusals(t *testing.T) {
	t.Parallel()
	pki := must(hostkeytest.New())(t)
	pub := must(parse(t, must(pki.Host("h"))(t)).Key.ECDH())(t)
	c := must(hostkey.Coordinates(pub))(t)
	if _, err := hostkey.Point(c); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 13, 80, 20, 159} {
		bad := c
		bad[at] ^= 1
		if _, err := hostkey.Point(bad); !errors.Is(err, hostkey.ErrCurve) {
			t.Errorf("byte %d flipped: %v", at, err)
		}
	}
}
