package hostkey_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/hostkey/hostkeytest"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func parse(t testing.TB, e *hostkeytest.Entity) *hostkey.Document {
	t.Helper()
	doc, warnings, err := hostkey.Parse(e.CertPEM())
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return doc
}

func TestVerify(t *testing.T) {
	t.Parallel()
	now := time.Now()
	pki := must(hostkeytest.New())(t)
	other := must(hostkeytest.New())(t)
	good := must(pki.Host("good"))(t)
	host := func(tmpl x509.Certificate) *hostkeytest.Entity {
		return must(hostkeytest.Issue(&pki.Signing, tmpl, elliptic.P521()))(t)
	}
	signing := func(tmpl x509.Certificate, by *hostkeytest.Entity) *hostkeytest.Entity {
		tmpl.Subject = hostkeytest.SigningName()
		return must(hostkeytest.Issue(by, tmpl, elliptic.P521()))(t)
	}
	ca := func(by *hostkeytest.Entity, name string) *hostkeytest.Entity {
		return must(hostkeytest.Issue(by, x509.Certificate{
			Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}, elliptic.P384()))(t)
	}
	certs := func(entities ...*hostkeytest.Entity) (out []*x509.Certificate) {
		for _, e := range entities {
			out = append(out, e.Cert)
		}
		return out
	}
	expired := signing(x509.Certificate{NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Hour)}, &pki.Inter)
	second := ca(&pki.Inter, "second intermediate")
	third := ca(second, "third intermediate")
	byTwo, byThree := signing(x509.Certificate{}, second), signing(x509.Certificate{}, third)
	armonkName := hostkeytest.SigningName()
	armonkName.Locality = []string{"Armonk"}
	armonk := must(hostkeytest.Issue(&pki.Inter, x509.Certificate{Subject: armonkName}, elliptic.P521()))(t)
	seventh := hostkeytest.SigningName()
	seventh.StreetAddress = []string{"one more entry"}
	sevenEntries := must(hostkeytest.Issue(&pki.Inter, x509.Certificate{Subject: seventh}, elliptic.P521()))(t)

	normal := certs(&pki.Signing, &pki.Inter)
	cases := []struct {
		name  string
		host  *hostkeytest.Entity
		certs []*x509.Certificate
		root  *x509.Certificate
		want  error
	}{
		{"good", good, normal, pki.Root.Cert, nil},
		{"certificates in another order", good, certs(&pki.Inter, &pki.Signing), pki.Root.Cert, nil},
		{"same signing certificate twice", good, certs(&pki.Signing, &pki.Signing, &pki.Inter), pki.Root.Cert, nil},
		{"signing certificate from Armonk", must(hostkeytest.Issue(armonk, x509.Certificate{}, elliptic.P521()))(t), certs(armonk, &pki.Inter), pki.Root.Cert, nil},
		{"two intermediates", must(hostkeytest.Issue(byTwo, x509.Certificate{}, elliptic.P521()))(t), certs(byTwo, second, &pki.Inter), pki.Root.Cert, nil},
		{"three intermediates", must(hostkeytest.Issue(byThree, x509.Certificate{}, elliptic.P521()))(t), certs(byThree, third, second, &pki.Inter), pki.Root.Cert, hostkey.ErrChain},
		{"signed by another PKI", must(other.Host("other"))(t), normal, pki.Root.Cert, hostkey.ErrUnsigned},
		{"signed by itself", must(hostkeytest.Issue(nil, x509.Certificate{Subject: pkix.Name{CommonName: "me"}}, elliptic.P521()))(t), normal, pki.Root.Cert, hostkey.ErrUnsigned},
		{"host expired", host(x509.Certificate{NotAfter: now.Add(-time.Minute), NotBefore: now.Add(-time.Hour)}), normal, pki.Root.Cert, hostkey.ErrExpired},
		{"host not yet valid", host(x509.Certificate{NotBefore: now.Add(time.Hour)}), normal, pki.Root.Cert, hostkey.ErrNotYetValid},
		{"signing certificate expired", must(hostkeytest.Issue(expired, x509.Certificate{}, elliptic.P521()))(t), certs(expired, &pki.Inter), pki.Root.Cert, hostkey.ErrExpired},
		{"no signing certificate", good, certs(&pki.Inter), pki.Root.Cert, hostkey.ErrNoSigningCert},
		{"subject with a seventh entry", good, certs(sevenEntries, &pki.Inter), pki.Root.Cert, hostkey.ErrNoSigningCert},
		{"two signing certificates", good, certs(&pki.Signing, armonk, &pki.Inter), pki.Root.Cert, hostkey.ErrManySigningCerts},
		{"no intermediate", good, certs(&pki.Signing), pki.Root.Cert, hostkey.ErrChain},
		{"another root", good, normal, other.Root.Cert, hostkey.ErrChain},
		{"intermediate as root", good, certs(&pki.Signing), pki.Inter.Cert, hostkey.ErrRoot},
		{"test PKI against the system's roots", good, normal, nil, hostkey.ErrChain},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := hostkey.Verify(parse(t, c.host), hostkey.Policy{Certs: c.certs, Root: c.root, Now: now})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, wants %v", err, c.want)
			}
		})
	}
}

func TestWeakKeyInChain(t *testing.T) {
	t.Parallel()
	pki := must(hostkeytest.New())(t)
	weak := must(rsa.GenerateKey(rand.Reader, 1024))(t)
	tmpl := x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: hostkeytest.SigningName(), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	signing := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &tmpl, pki.Inter.Cert, &weak.PublicKey, pki.Inter.Key))(t)))(t)
	key := must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))(t)
	host := must(x509.CreateCertificate(rand.Reader, &tmpl, signing, &key.PublicKey, weak))(t)
	doc, _, err := hostkey.Parse(host)
	if err != nil {
		t.Fatal(err)
	}
	err = hostkey.Verify(doc, hostkey.Policy{Certs: []*x509.Certificate{signing, pki.Inter.Cert}, Root: pki.Root.Cert, Now: time.Now()})
	if !errors.Is(err, hostkey.ErrWeakKey) {
		t.Errorf("got %v", err)
	}
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

func FuzzParse(f *testing.F) {
	pki := must(hostkeytest.New())(f)
	f.Add(pki.Signing.CertPEM())
	f.Add(pki.Signing.Cert.Raw)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, _, err := hostkey.Parse(data)
		if err == nil && doc.Hash() == [32]byte{} {
			t.Error("accepted a document without a key")
		}
	})
}
