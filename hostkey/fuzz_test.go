package hostkey_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/secexec/secexec/hostkey"
	ht "github.com/secexec/secexec/hostkey/hostkeytest"
)

func FuzzParse(f *testing.F) {
	m := must(ht.World{Now: time.Now()}.Make())(f)
	f.Add(certPEM(m.Certs[ht.Host]))
	f.Add(m.Certs[ht.Host].Raw)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, _, err := hostkey.Parse(data)
		if err == nil && doc.Hash() == [32]byte{} {
			t.Error("accepted a document without a key")
		}
	})
}

// FuzzFile hands in any file beside a good chain that lacks one CRL: nothing
// but that CRL may lead to acceptance.
func FuzzFile(f *testing.F) {
	now := time.Now()
	m := must(ht.World{Now: now}.Make())(f)
	doc, _, err := hostkey.Parse(m.Certs[ht.Host].Raw)
	if err != nil {
		f.Fatal(err)
	}
	good := hostkey.Policy{Now: now}
	for _, l := range []ht.Level{ht.Root, ht.Inter, ht.Signing} {
		good.Certs = append(good.Certs, hostkey.Cert{Certificate: m.Certs[l]})
		if l != ht.Signing {
			_, crls, err := hostkey.ParseFile("", m.CRLs[l])
			if err != nil {
				f.Fatal(err)
			}
			good.CRLs = append(good.CRLs, crls...)
		}
		f.Add(append(certPEM(m.Certs[l]), ht.CRLPEM(m.CRLs[l])...))
	}
	good.Roots = good.Certs[:1]
	_, want, err := hostkey.ParseFile("", m.CRLs[ht.Signing])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.CRLs[ht.Signing])
	f.Add([]byte("-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, crls, err := hostkey.ParseFile("fuzz", data)
		if err != nil {
			return
		}
		if len(certs)+len(crls) == 0 {
			t.Error("a file of nothing is no error")
		}
		p := good
		p.Certs = append(p.Certs[:len(p.Certs):len(p.Certs)], certs...)
		p.CRLs = append(p.CRLs[:len(p.CRLs):len(p.CRLs)], crls...)
		report, err := hostkey.Verify(context.Background(), []*hostkey.Document{doc}, p)
		if report.Accepted != (err == nil) {
			t.Error("report and error differ")
		}
		if err != nil {
			return
		}
		for _, crl := range crls {
			if bytes.Equal(crl.RawTBSRevocationList, want[0].RawTBSRevocationList) {
				return
			}
		}
		t.Error("accepted without the signing key's CRL")
	})
}
