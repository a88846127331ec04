package hostkey_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/secexec/secexec/hostkey"
	ht "github.com/secexec/secexec/hostkey/hostkeytest"
)

// BenchmarkVerify measures one document against an emulated PKI, from bytes of
// files to verdict.
func BenchmarkVerify(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "host")
	if _, err := ht.WriteHost(dir, "host"); err != nil {
		b.Fatal(err)
	}
	read := func(name string) []byte { return must(os.ReadFile(filepath.Join(dir, name)))(b) }
	host, signing, inter, root := read("host.crt"), read("ca/signing.crt"), read("ca/inter-ca.crt"), read("ca/root-ca.crt")
	for b.Loop() {
		g := given{host: host, certs: [][]byte{signing, inter}, roots: root}
		if _, err := g.verify(time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerify95 measures as many documents as an image has room for.
func BenchmarkVerify95(b *testing.B) {
	now := time.Now()
	m := must(ht.World{Now: now}.Make())(b)
	doc, _, err := hostkey.Parse(m.Certs[ht.Host].Raw)
	if err != nil {
		b.Fatal(err)
	}
	docs := make([]*hostkey.Document, 95)
	for i := range docs {
		docs[i] = doc
	}
	p := hostkey.Policy{Now: now}
	for _, l := range []ht.Level{ht.Root, ht.Inter, ht.Signing} {
		_, crls, err := hostkey.ParseFile("", m.CRLs[l])
		if err != nil {
			b.Fatal(err)
		}
		p.CRLs = append(p.CRLs, crls...)
		p.Certs = append(p.Certs, hostkey.Cert{Certificate: m.Certs[l]})
	}
	p.Roots = p.Certs[:1]
	for b.Loop() {
		if _, err := hostkey.Verify(context.Background(), docs, p); err != nil {
			b.Fatal(err)
		}
	}
}
