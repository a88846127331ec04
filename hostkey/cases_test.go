package hostkey_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"time"

	"github.com/secexec/secexec/hostkey"
	ht "github.com/secexec/secexec/hostkey/hostkeytest"
)

// testCase is one row: a world, what is handed in of it, and the verdict.
type testCase struct {
	name string
	w    ht.World
	give func(*given) // nil: all of it
	want error        // nil: accepted
	role hostkey.Role // that the refusal names; "" any
	// pvverify's verdict is the other one, for this reason (docs/host-keys.md).
	differs string
}

// Changes of one level each, so that rows stay short.
type (
	cert = func(*x509.Certificate)
	list = func(*ht.List)
)

func onCert(l ht.Level, change cert) ht.World {
	return ht.World{Inters: 2, Cert: map[ht.Level]cert{l: change}}
}

func onCRL(l ht.Level, change list) ht.World {
	return ht.World{Inters: 2, CRL: map[ht.Level]list{l: change}}
}

var (
	allLevels = []ht.Level{ht.Root, ht.Inter, ht.Inter2, ht.Signing, ht.Host}
	issuers   = []ht.Level{ht.Root, ht.Inter, ht.Inter2, ht.Signing}
	levelName = map[ht.Level]string{ht.Root: "root", ht.Inter: "upper intermediate", ht.Inter2: "lower intermediate", ht.Signing: "signing", ht.Host: "host"}
	roles     = map[ht.Level]hostkey.Role{ht.Root: hostkey.RoleRoot, ht.Inter: hostkey.RoleIntermediate, ht.Inter2: hostkey.RoleIntermediate, ht.Signing: hostkey.RoleSigning, ht.Host: hostkey.RoleHost}

	unknownCritical = pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}
	anotherKey      = []byte("another key")
)

// Where pvverify's verdict is the other one: headings in docs/host-keys.md,
// which says why.
const (
	noNextUpdate  = "CRL of a CA without nextUpdate"
	hostCRLRules  = "CRL of the signing key: delta, indirect, of another scope, or with unknown critical extensions"
	hostExtension = "Unknown critical extension in a document"
	sha1Digest    = "SHA-1 on a document or a CRL"
	firstName     = "Revoked under the other name"
	sameTwice     = "The same signing certificate twice"
	wrongCurve    = "A document on another curve"
	nameBytes     = "Names in another encoding"
	manyCerts     = "More than 100 certificates, or 1000 in a file"
	fileSize      = "A document larger than 1 MiB"
	emptyFile     = "A --cert file without certificate or CRL"
)

// casesPerLevel are the deviations that each level can have.
func casesPerLevel(now time.Time) (out []testCase) {
	add := func(c testCase) { out = append(out, c) }
	for _, l := range allLevels {
		n := levelName[l]
		add(testCase{name: n + " expired", w: onCert(l, func(t *x509.Certificate) { t.NotAfter = now.Add(-time.Minute) }), want: hostkey.ErrExpired, role: roles[l]})
		add(testCase{name: n + " not yet valid", w: onCert(l, func(t *x509.Certificate) { t.NotBefore = now.Add(time.Hour) }), want: hostkey.ErrNotYetValid, role: roles[l]})
		c := testCase{name: n + " with unknown critical extension", w: onCert(l, func(t *x509.Certificate) { t.ExtraExtensions = append(t.ExtraExtensions, unknownCritical) }), want: hostkey.ErrCritical, role: roles[l]}
		if l == ht.Host {
			c.differs = hostExtension
		}
		add(c)
		add(testCase{name: n + " revoked", w: ht.World{Inters: 2, Revoked: []ht.Level{l}}, want: hostkey.ErrRevoked, role: roles[l]})
		c = testCase{name: n + " signed with SHA-1", w: onCert(l, func(t *x509.Certificate) { t.SignatureAlgorithm = x509.ECDSAWithSHA1 }), want: hostkey.ErrWeakSignature, role: roles[l]}
		switch l {
		case ht.Root: // nothing hangs on a root's signature on itself
			c.want = nil
		case ht.Host:
			c.differs = sha1Digest
		}
		add(c)
		if l != ht.Root {
			add(testCase{name: n + " with another authority key", w: ht.World{Inters: 2, Parent: map[ht.Level]cert{l: func(t *x509.Certificate) { t.SubjectKeyId = anotherKey }}}, want: hostkey.ErrAuthorityKey, role: roles[l]})
			c := testCase{name: n + " signed by another key", w: ht.World{Inters: 2, Signer: map[ht.Level]*ecdsa.PrivateKey{l: ht.ECKey(elliptic.P256(), 99)}}, want: hostkey.ErrIssuerSignature, role: roles[l]}
			if l == ht.Host {
				c.want = hostkey.ErrUnsigned
			}
			add(c)
		}
		if l != ht.Host {
			w := ht.World{Inters: 2, Key: map[ht.Level]crypto.Signer{l: ht.WeakKey()}}
			add(testCase{name: n + " with RSA of 1024 bits", w: w, want: hostkey.ErrWeakKey, role: roles[l]})
		}
	}
	for _, l := range issuers {
		n, subject := "CRL of "+levelName[l], roles[l+1]
		if l == ht.Inter2 {
			subject = hostkey.RoleSigning
		}
		if l == ht.Root {
			subject = "" // its intermediate or itself
		}
		bad := func(what string, change list, want error, differs string) {
			if l != ht.Signing && differs == hostCRLRules || l == ht.Signing && differs == noNextUpdate {
				differs = ""
			}
			add(testCase{name: n + " " + what, w: onCRL(l, change), want: want, role: subject, differs: differs})
		}
		add(testCase{name: n + " missing", w: ht.World{Inters: 2}, give: func(g *given) { g.dropCRL(l) }, want: hostkey.ErrNoCRL, role: subject})
		bad("expired", func(c *ht.List) { c.NextUpdate = now.Add(-time.Minute) }, hostkey.ErrCRLExpired, "")
		bad("not yet valid", func(c *ht.List) { c.ThisUpdate = now.Add(time.Hour) }, hostkey.ErrCRLNotYetValid, "")
		bad("without nextUpdate", func(c *ht.List) { c.NextUpdate = time.Time{} }, hostkey.ErrCRLNoNextUpdate, noNextUpdate)
		bad("with another authority key", func(c *ht.List) { c.Extensions = []pkix.Extension{ht.AuthorityKey(anotherKey)} }, hostkey.ErrCRLAuthorityKey, "")
		bad("with unknown critical extension", func(c *ht.List) { c.Extensions = append(c.Extensions, unknownCritical) }, hostkey.ErrCRLCritical, hostCRLRules)
		bad("with unknown critical extension of an entry", func(c *ht.List) { c.Revoked[0].Extensions = []pkix.Extension{unknownCritical} }, hostkey.ErrCRLCritical, hostCRLRules)
		bad("is a delta CRL", func(c *ht.List) { c.Extensions = append(c.Extensions, deltaCRL) }, hostkey.ErrCRLDelta, hostCRLRules)
		bad("of another issuer", func(c *ht.List) { c.Issuer = rawName(pkix.Name{CommonName: "another issuer"}) }, hostkey.ErrNoCRL, "")
		bad("signed with SHA-1", func(c *ht.List) { c.SHA1 = true }, hostkey.ErrWeakSignature, sha1Digest)
		bad("is indirect", func(c *ht.List) { c.Extensions = append(c.Extensions, issuingPoint(0xa4)) }, hostkey.ErrCRLScope, hostCRLRules)
		add(testCase{name: n + " signed by another key", w: ht.World{Inters: 2, CRLKey: map[ht.Level]*ecdsa.PrivateKey{l: ht.ECKey(elliptic.P256(), 99)}}, want: hostkey.ErrCRLSignature, role: subject})
		add(testCase{name: n + " expired beside a valid one", w: onCRL(l, func(c *ht.List) { c.NextUpdate = now.Add(-time.Minute) }), give: func(g *given) {
			good := sure(ht.NewList(g.made.Certs[l], now).Sign(g.made.Keys[l].(*ecdsa.PrivateKey)))
			g.crls = append(g.crls, ht.CRLPEM(good))
		}})
	}
	for _, l := range []ht.Level{ht.Root, ht.Inter, ht.Inter2} {
		n := levelName[l]
		add(testCase{name: n + " is no CA", w: onCert(l, func(t *x509.Certificate) { t.IsCA, t.KeyUsage = false, x509.KeyUsageCRLSign }), want: hostkey.ErrNotCA, role: roles[l]})
		add(testCase{name: n + " without basic constraints", w: onCert(l, func(t *x509.Certificate) {
			t.IsCA, t.BasicConstraintsValid, t.KeyUsage = false, false, x509.KeyUsageCRLSign
		}), want: hostkey.ErrNotCA, role: roles[l]})
		add(testCase{name: n + " may not sign certificates", w: onCert(l, func(t *x509.Certificate) { t.KeyUsage = x509.KeyUsageCRLSign }), want: hostkey.ErrKeyUsage, role: roles[l]})
		add(testCase{name: n + " without key usage", w: onCert(l, func(t *x509.Certificate) { t.KeyUsage = 0 }), want: hostkey.ErrKeyUsage, role: roles[l]})
		add(testCase{name: n + " may not sign CRLs", w: onCert(l, func(t *x509.Certificate) { t.KeyUsage = x509.KeyUsageCertSign }), want: hostkey.ErrCRLKeyUsage})
		add(testCase{name: n + " with basic constraints that are not critical", w: onCert(l, func(t *x509.Certificate) {
			t.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}}}
		}), want: hostkey.ErrProfile, role: roles[l]})
		add(testCase{name: n + " without subject key identifier", w: onCert(l, func(t *x509.Certificate) {
			t.SubjectKeyId = nil
			t.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 14}, Value: []byte{4, 0}}}
		}), want: hostkey.ErrProfile})
	}
	return out
}

var deltaCRL = pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}

// issuingPoint is an issuing distribution point with one Boolean flag set.
func issuingPoint(tag byte) pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 3, tag & 0x9f, 1, 0xff}}
}

// issuingURI is an issuing distribution point of a URI.
func issuingURI(uri string) pkix.Extension {
	wrap := func(tag byte, der []byte) []byte { return append([]byte{tag, byte(len(der))}, der...) }
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: wrap(0x30, wrap(0xa0, wrap(0xa0, wrap(0x86, []byte(uri)))))}
}

func rawName(n pkix.Name) []byte {
	der, err := asn1.Marshal(n.ToRDNSequence())
	if err != nil {
		panic(fmt.Sprint("encode name: ", err))
	}
	return der
}
