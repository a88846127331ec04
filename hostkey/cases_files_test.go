package hostkey_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"time"

	"github.com/secexec/secexec/hostkey"
	ht "github.com/secexec/secexec/hostkey/hostkeytest"
)

// reorder puts the entries of IBM's names in the order that pvimg tries: C, O,
// OU, L, ST, CN.
func reorder(der []byte) []byte {
	var rdns, out pkix.RDNSequence
	if _, err := asn1.Unmarshal(der, &rdns); err != nil {
		panic(err)
	}
	for _, kind := range []int{6, 10, 11, 7, 8, 3} {
		for _, rdn := range rdns {
			if rdn[0].Type[3] == kind {
				out = append(out, rdn)
			}
		}
	}
	if bytes.Equal(sure(asn1.Marshal(out)), der) { // it is in this order: swap the first two
		out[0], out[1] = out[1], out[0]
	}
	der, err := asn1.Marshal(out)
	if err != nil {
		panic(err)
	}
	return der
}

// casesOfFiles hand in the same things in other files.
func casesOfFiles(time.Time) []testCase {
	all := func(files ...[][]byte) []byte {
		var out [][]byte
		for _, f := range files {
			out = append(out, f...)
		}
		return bytes.Join(out, []byte("text between blocks\n"))
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{1}})
	return []testCase{
		{name: "document in DER", give: func(g *given) { g.host = unPEM(g.host) }},
		{name: "certificates in DER", give: func(g *given) {
			for i := range g.certs {
				g.certs[i] = unPEM(g.certs[i])
			}
		}},
		{name: "CRLs in DER", give: func(g *given) {
			for i := range g.crls {
				g.crls[i] = unPEM(g.crls[i])
			}
		}},
		{name: "root in DER", give: func(g *given) { g.roots = unPEM(g.roots) }},
		{name: "all certificates in one file", w: ht.World{Inters: 2}, give: func(g *given) { g.certs = [][]byte{all(g.certs)} }},
		{name: "all CRLs in one file", w: ht.World{Inters: 2}, give: func(g *given) { g.crls = [][]byte{all(g.crls)} }},
		{name: "CRLs in the certificates' file", give: func(g *given) { g.certs, g.crls = [][]byte{all(g.crls, g.certs)}, nil }},
		{name: "CRLs in the root's file", give: func(g *given) { g.roots, g.crls = all([][]byte{g.roots}, g.crls), nil }},
		{name: "certificates in the CRLs' file", give: func(g *given) { g.crls = [][]byte{all(g.certs, g.crls)} }},
		{name: "lines that end in CR LF", give: func(g *given) { g.host = bytes.ReplaceAll(g.host, []byte("\n"), []byte("\r\n")) }},
		{name: "document followed by another certificate", give: func(g *given) { g.host = append(g.host, g.roots...) }},
		{name: "document with a private key before it", give: func(g *given) { g.host = append(key, g.host...) }},
		{name: "certificate after another in the document's file", give: func(g *given) { g.host = append(g.certs[0], g.host...) }, want: hostkey.ErrCurve},

		{name: "document is empty", give: func(g *given) { g.host = nil }, want: hostkey.ErrDocument},
		{name: "document is text", give: func(g *given) { g.host = []byte("hello\n") }, want: hostkey.ErrDocument},
		{name: "document is a private key", give: func(g *given) { g.host = key }, want: hostkey.ErrDocument},
		{name: "document is a CRL", give: func(g *given) { g.host = g.crls[0] }, want: hostkey.ErrDocument},
		{name: "document is a CRL in DER", give: func(g *given) { g.host = unPEM(g.crls[0]) }, want: hostkey.ErrDocument},
		{name: "document is cut short", give: func(g *given) { g.host = unPEM(g.host)[:300] }, want: hostkey.ErrDocument},
		{name: "document is cut short in PEM", give: func(g *given) { g.host = g.host[:300] }, want: hostkey.ErrDocument},
		{name: "document is too large", give: func(g *given) { g.host = append(g.host, make([]byte, hostkey.MaxSize)...) }, want: hostkey.ErrDocument, differs: fileSize},
		{name: "certificate file is text", give: func(g *given) { g.certs = append(g.certs, []byte("hello\n")) }, want: hostkey.ErrNothing, differs: emptyFile},
		{name: "CRL file is text", give: func(g *given) { g.crls = append(g.crls, []byte("hello\n")) }, want: hostkey.ErrNothing},
		{name: "CRL file is empty", give: func(g *given) { g.crls = append(g.crls, nil) }, want: hostkey.ErrNothing},
		{name: "CRL file holds very many", give: func(g *given) { g.crls = append(g.crls, bytes.Repeat(g.crls[0], 1001)) }, want: hostkey.ErrNothing, differs: manyCerts},
		{name: "root file is a private key", give: func(g *given) { g.roots = key }, want: hostkey.ErrNothing},
		{name: "document on P-384", w: ht.World{Key: map[ht.Level]crypto.Signer{ht.Host: ht.ECKey(elliptic.P384(), 0)}}, want: hostkey.ErrCurve, differs: wrongCurve},
		{name: "document on P-256", w: ht.World{Key: map[ht.Level]crypto.Signer{ht.Host: ht.ECKey(elliptic.P256(), 50)}}, want: hostkey.ErrCurve, differs: wrongCurve},
		{name: "document of an RSA key", w: ht.World{Key: map[ht.Level]crypto.Signer{ht.Host: ht.WeakKey()}}, want: hostkey.ErrCurve},
	}
}
