package hostkey_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/hostkey/hostkeytest"
)

// given is what an owner hands in: files.
type given struct {
	host  []byte
	certs [][]byte
	crls  [][]byte
	roots []byte
	fetch hostkey.Fetcher
	made  *hostkeytest.Made
}

// giveAll hands in all of a world, a file for each thing, in PEM.
func giveAll(m *hostkeytest.Made) *given {
	g := &given{host: certPEM(m.Certs[hostkeytest.Host]), roots: certPEM(m.Certs[hostkeytest.Root]), made: m}
	for l := hostkeytest.Inter; l <= hostkeytest.Signing; l++ {
		if m.Certs[l] != nil {
			g.certs = append(g.certs, certPEM(m.Certs[l]))
		}
	}
	for l := hostkeytest.Root; l <= hostkeytest.Signing; l++ {
		if m.CRLs[l] != nil {
			g.crls = append(g.crls, hostkeytest.CRLPEM(m.CRLs[l]))
		}
	}
	return g
}

// dropCert takes a level's certificate away, dropCRL an issuer's CRL.
func (g *given) dropCert(l hostkeytest.Level) { g.certs = without(g.certs, certPEM(g.made.Certs[l])) }
func (g *given) dropCRL(l hostkeytest.Level) {
	g.crls = without(g.crls, hostkeytest.CRLPEM(g.made.CRLs[l]))
}

func without(files [][]byte, file []byte) (out [][]byte) {
	for _, f := range files {
		if !bytes.Equal(f, file) {
			out = append(out, f)
		}
	}
	return out
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func unPEM(text []byte) []byte {
	block, _ := pem.Decode(text)
	return block.Bytes
}

// verify does what the command does with the files.
func (g *given) verify(now time.Time) (*hostkey.Report, error) {
	doc, _, err := hostkey.Parse(g.host)
	if err != nil {
		return nil, err
	}
	doc.File = "host.crt"
	p := hostkey.Policy{Now: now, Fetch: g.fetch}
	for _, file := range g.certs {
		certs, crls, err := hostkey.ParseFile("cert.crt", file)
		if err != nil {
			return nil, err
		}
		p.Certs, p.CRLs = append(p.Certs, certs...), append(p.CRLs, crls...)
	}
	for _, file := range g.crls {
		_, crls, err := hostkey.ParseFile("ca.crl", file)
		if err != nil {
			return nil, err
		}
		p.CRLs = append(p.CRLs, crls...)
	}
	var crls []hostkey.CRL
	if p.Roots, crls, err = hostkey.ParseFile("root.crt", g.roots); err != nil {
		return nil, err
	}
	p.CRLs = append(p.CRLs, crls...)
	return hostkey.Verify(context.Background(), []*hostkey.Document{doc}, p)
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// sure is must where a table is made.
func sure[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
