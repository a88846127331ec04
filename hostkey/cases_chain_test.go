package hostkey_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"time"

	"github.com/secexec/secexec/hostkey"
	ht "github.com/secexec/secexec/hostkey/hostkeytest"
)

// casesOfChain are about names, chains, and which CRL is whose.
func casesOfChain(now time.Time) []testCase {
	other := sure(ht.World{Now: now, Key: nil, Cert: map[ht.Level]cert{ht.Root: func(t *x509.Certificate) { t.Subject = pkix.Name{CommonName: "another root"} }}}.Make())
	subject := func(change func(*pkix.Name)) ht.World {
		n := ht.SigningName()
		change(&n)
		return ht.World{Cert: map[ht.Level]cert{ht.Signing: func(t *x509.Certificate) { t.Subject = n }}}
	}
	armonk := func(n *pkix.Name) { n.Locality = []string{"Armonk"} }
	path := func(l ht.Level, n int) ht.World {
		return onCert(l, func(t *x509.Certificate) { t.MaxPathLen, t.MaxPathLenZero = n, n == 0 })
	}
	dp := "http://crl.example/ca.crl"
	cases := []testCase{
		{name: "good"},
		{name: "good with two intermediates", w: ht.World{Inters: 2}},
		{name: "good without intermediate", w: ht.World{Inters: -1}},
		{name: "three intermediates", w: ht.World{Inters: 3}, want: hostkey.ErrChainLength},
		{name: "four levels below the root, one not given", w: ht.World{Inters: 3}, give: func(g *given) { g.dropCert(ht.Inter2) }, want: hostkey.ErrNoIssuer, role: hostkey.RoleIntermediate},
		{name: "intermediate not given", give: func(g *given) { g.dropCert(ht.Inter) }, want: hostkey.ErrNoIssuer, role: hostkey.RoleSigning},
		{name: "upper intermediate not given", w: ht.World{Inters: 2}, give: func(g *given) { g.dropCert(ht.Inter) }, want: hostkey.ErrNoIssuer, role: hostkey.RoleIntermediate},
		{name: "another root", give: func(g *given) { g.roots = certPEM(other.Certs[ht.Root]) }, want: hostkey.ErrNoIssuer, role: hostkey.RoleIntermediate},
		{name: "another root of the same name", w: ht.World{Signer: map[ht.Level]*ecdsa.PrivateKey{ht.Inter: ht.ECKey(elliptic.P256(), 98)}}, want: hostkey.ErrIssuerSignature, role: hostkey.RoleIntermediate},
		{name: "root among the certificates, another one trusted", give: func(g *given) {
			g.certs = append(g.certs, g.roots)
			g.roots = certPEM(other.Certs[ht.Root])
		}, want: hostkey.ErrUntrustedRoot},
		{name: "root is not self-signed", w: ht.World{Inters: 2}, give: func(g *given) { g.roots = certPEM(g.made.Certs[ht.Inter]) }, want: hostkey.ErrRoot, role: hostkey.RoleRoot},
		{name: "root signed by another key of its name", w: ht.World{Signer: map[ht.Level]*ecdsa.PrivateKey{ht.Root: ht.ECKey(elliptic.P256(), 97)}}, want: hostkey.ErrRoot},
		{name: "root's file holds an intermediate too", w: ht.World{Inters: 2}, give: func(g *given) {
			g.dropCert(ht.Inter)
			g.roots = append(g.roots, certPEM(g.made.Certs[ht.Inter])...)
		}},
		{name: "several roots", give: func(g *given) { g.roots = append(certPEM(other.Certs[ht.Root]), g.roots...) }},
		{name: "root among the certificates and trusted", give: func(g *given) { g.certs = append(g.certs, g.roots) }},
		{name: "certificates in another order", w: ht.World{Inters: 2}, give: func(g *given) { g.certs[0], g.certs[2] = g.certs[2], g.certs[0] }},
		{name: "expired intermediate beside a renewed one", give: func(g *given) {
			old := onCert(ht.Inter, func(t *x509.Certificate) { t.NotAfter = now.Add(-time.Minute) })
			old.Now, old.Inters = now, 1
			g.certs = append([][]byte{certPEM(sure(old.Make()).Certs[ht.Inter])}, g.certs...)
		}},
		{name: "issuer's name in another encoding", w: ht.World{Parent: map[ht.Level]cert{ht.Signing: func(t *x509.Certificate) {
			t.RawSubject = rawName(pkix.Name{Country: []string{"us"}, Organization: []string{"SECEXEC"}, CommonName: "Test  ca 1"})
		}}}, want: hostkey.ErrNoIssuer, role: hostkey.RoleSigning, differs: nameBytes},
		{name: "more than 100 certificates", give: func(g *given) {
			for range 100 {
				g.certs = append(g.certs, certPEM(other.Certs[ht.Root]))
			}
		}, want: hostkey.ErrChain, differs: manyCerts},
		{name: "certificates of no use", give: func(g *given) { g.certs = append(g.certs, certPEM(other.Certs[ht.Root])) }},

		{name: "root's path length 0 above one intermediate", w: ht.World{Cert: map[ht.Level]cert{ht.Root: func(t *x509.Certificate) { t.MaxPathLenZero = true }}}, want: hostkey.ErrPathLength, role: hostkey.RoleRoot},
		{name: "root's path length 1 above two intermediates", w: path(ht.Root, 1), want: hostkey.ErrPathLength, role: hostkey.RoleRoot},
		{name: "root's path length 2 above two intermediates", w: path(ht.Root, 2)},
		{name: "upper intermediate's path length 0", w: path(ht.Inter, 0), want: hostkey.ErrPathLength, role: hostkey.RoleIntermediate},
		{name: "lower intermediate's path length 0", w: path(ht.Inter2, 0)},
		{name: "intermediate with name constraints that exclude the signing certificate", w: ht.World{Cert: map[ht.Level]cert{
			ht.Inter: func(t *x509.Certificate) {
				t.PermittedDNSDomains, t.PermittedDNSDomainsCritical = []string{"example.org"}, true
			},
			ht.Signing: func(t *x509.Certificate) { t.DNSNames = []string{"other.example"} },
		}}, want: hostkey.ErrChain},
		{name: "signing certificate without authority key", w: ht.World{Parent: map[ht.Level]cert{ht.Signing: func(t *x509.Certificate) { t.SubjectKeyId = nil }}}, want: hostkey.ErrProfile, role: hostkey.RoleSigning},
		{name: "intermediate without authority key", w: ht.World{Parent: map[ht.Level]cert{ht.Inter: func(t *x509.Certificate) { t.SubjectKeyId = nil }}}, want: hostkey.ErrProfile, role: hostkey.RoleIntermediate},
		{name: "signing certificate that may sign certificates", w: ht.World{Cert: map[ht.Level]cert{ht.Signing: func(t *x509.Certificate) { t.KeyUsage |= x509.KeyUsageCertSign }}}, want: hostkey.ErrProfile, role: hostkey.RoleSigning},
		{name: "signing certificate that is a CA's", w: ht.World{Cert: map[ht.Level]cert{ht.Signing: func(t *x509.Certificate) { t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign }}}},

		{name: "no signing certificate", give: func(g *given) { g.dropCert(ht.Signing) }, want: hostkey.ErrNoSigningCert},
		{name: "signing certificate twice", give: func(g *given) { g.certs = append(g.certs, certPEM(g.made.Certs[ht.Signing])) }, differs: sameTwice},
		{name: "two signing certificates", give: func(g *given) { g.certs = append(g.certs, certPEM(other.Certs[ht.Signing])) }, want: hostkey.ErrManySigningCerts},
		{name: "two signing certificates, Armonk and Poughkeepsie", give: func(g *given) {
			g.certs = append(g.certs, certPEM(sure(subjectAt(now, armonk).Make()).Certs[ht.Signing]))
		}, want: hostkey.ErrManySigningCerts},
		{name: "subject with another unit", w: subject(func(n *pkix.Name) { n.OrganizationalUnit = []string{"Key Signing Service Invalid"} }), want: hostkey.ErrNoSigningCert},
		{name: "subject without unit", w: subject(func(n *pkix.Name) { n.OrganizationalUnit = nil }), want: hostkey.ErrNoSigningCert},
		{name: "subject with another country", w: subject(func(n *pkix.Name) { n.Country = []string{"DE"} }), want: hostkey.ErrNoSigningCert},
		{name: "subject with another state", w: subject(func(n *pkix.Name) { n.Province = []string{"Vermont"} }), want: hostkey.ErrNoSigningCert},
		{name: "subject with another place", w: subject(func(n *pkix.Name) { n.Locality = []string{"Boeblingen"} }), want: hostkey.ErrNoSigningCert},
		{name: "subject with another organisation", w: subject(func(n *pkix.Name) { n.Organization = []string{"IBM"} }), want: hostkey.ErrNoSigningCert},
		{name: "subject with another common name", w: subject(func(n *pkix.Name) { n.CommonName = "IBM" }), want: hostkey.ErrNoSigningCert},
		{name: "subject with a seventh entry", w: subject(func(n *pkix.Name) { n.StreetAddress = []string{"one more entry"} }), want: hostkey.ErrNoSigningCert},
		{name: "subject with a unit twice in place of the state", w: subject(func(n *pkix.Name) {
			n.Province, n.OrganizationalUnit = nil, []string{"Host Key Signing Service", "Host Key Signing Service"}
		}), want: hostkey.ErrNoSigningCert},

		{name: "all from Armonk", w: subject(armonk)},
		{name: "certificate from Armonk, CRL from Poughkeepsie", w: withCRL(subject(armonk), ht.SigningName())},
		{name: "certificate from Poughkeepsie, CRL from Armonk", w: withCRL(ht.World{}, ht.SigningName(), armonk), want: hostkey.ErrNoCRL, role: hostkey.RoleHost},
		{name: "CRL with name entries in another order", w: reordered(ht.World{})},
		{name: "certificate from Armonk, CRL from Poughkeepsie in another order", w: reordered(subject(armonk))},
		{name: "CRL of a CA with name entries in another order", w: ht.World{CRL: map[ht.Level]list{ht.Inter: func(l *ht.List) { l.Issuer = reorder(l.Issuer) }}}, want: hostkey.ErrNoCRL, role: hostkey.RoleSigning},
		{name: "CRL with its issuer's name in other letters", w: ht.World{CRL: map[ht.Level]list{ht.Inter: func(l *ht.List) {
			l.Issuer = rawName(pkix.Name{Country: []string{"us"}, Organization: []string{"SECEXEC"}, CommonName: "Test  ca 1"})
		}}}},
		{name: "revoked by the CRL from Poughkeepsie beside one from Armonk", w: subject(armonk), give: func(g *given) {
			l := ht.NewList(g.made.Certs[ht.Signing], now)
			l.Issuer = rawName(ht.SigningName())
			l.Revoke(g.made.Certs[ht.Host].SerialNumber)
			g.crls = append(g.crls, ht.CRLPEM(sure(l.Sign(g.made.Keys[ht.Signing].(*ecdsa.PrivateKey)))))
		}, want: hostkey.ErrRevoked, role: hostkey.RoleHost, differs: firstName},
		{name: "revoked by the second of two valid CRLs", give: func(g *given) {
			l := ht.NewList(g.made.Certs[ht.Signing], now)
			l.Revoke(g.made.Certs[ht.Host].SerialNumber)
			g.crls = append(g.crls, ht.CRLPEM(sure(l.Sign(g.made.Keys[ht.Signing].(*ecdsa.PrivateKey)))))
		}, want: hostkey.ErrRevoked, role: hostkey.RoleHost},
		{name: "revoked by a CRL that is forged", give: func(g *given) {
			l := ht.NewList(g.made.Certs[ht.Signing], now)
			l.Revoke(g.made.Certs[ht.Host].SerialNumber)
			g.crls = append(g.crls, ht.CRLPEM(sure(l.Sign(ht.ECKey(elliptic.P256(), 96)))))
		}},

		{name: "CRL of CAs only, for the signing certificate", w: ht.World{CRL: map[ht.Level]list{ht.Inter: func(l *ht.List) { l.Extensions = append(l.Extensions, issuingPoint(0x82)) }}}, want: hostkey.ErrCRLScope, role: hostkey.RoleSigning},
		{name: "CRL of users only, for the signing certificate", w: ht.World{CRL: map[ht.Level]list{ht.Inter: func(l *ht.List) { l.Extensions = append(l.Extensions, issuingPoint(0x81)) }}}},
		{name: "CRL of users only, for a CA", w: ht.World{CRL: map[ht.Level]list{ht.Root: func(l *ht.List) { l.Extensions = append(l.Extensions, issuingPoint(0x81)) }}}, want: hostkey.ErrCRLScope},
		{name: "CRL of CAs only, for a CA", w: ht.World{CRL: map[ht.Level]list{ht.Root: func(l *ht.List) { l.Extensions = append(l.Extensions, issuingPoint(0x82)) }}}},
		{name: "CRL of attribute certificates", w: ht.World{CRL: map[ht.Level]list{ht.Inter: func(l *ht.List) { l.Extensions = append(l.Extensions, issuingPoint(0x85)) }}}, want: hostkey.ErrCRLScope},
		{name: "CRL of CAs only, for a document", w: ht.World{CRL: map[ht.Level]list{ht.Signing: func(l *ht.List) { l.Extensions = append(l.Extensions, issuingPoint(0x82)) }}}, want: hostkey.ErrCRLScope, role: hostkey.RoleHost, differs: hostCRLRules},
		{name: "CRL of another distribution point", w: ht.World{
			Cert: map[ht.Level]cert{ht.Signing: func(t *x509.Certificate) { t.CRLDistributionPoints = []string{dp} }},
			CRL:  map[ht.Level]list{ht.Inter: func(l *ht.List) { l.Extensions = append(l.Extensions, issuingURI(dp+"2")) }},
		}, want: hostkey.ErrCRLScope, role: hostkey.RoleSigning},
		{name: "CRL of its own distribution point", w: ht.World{
			Cert: map[ht.Level]cert{ht.Signing: func(t *x509.Certificate) { t.CRLDistributionPoints = []string{dp} }},
			CRL:  map[ht.Level]list{ht.Inter: func(l *ht.List) { l.Extensions = append(l.Extensions, issuingURI(dp)) }},
		}},

		{name: "document that names another issuer", w: ht.World{Parent: map[ht.Level]cert{ht.Host: func(t *x509.Certificate) { t.Subject, t.RawSubject = pkix.Name{CommonName: "someone else"}, nil }}}},
		{name: "document without authority key", w: ht.World{Parent: map[ht.Level]cert{ht.Host: func(t *x509.Certificate) { t.SubjectKeyId = nil }}}},
		{name: "document of another PKI", give: func(g *given) {
			w := ht.World{Now: now, Signer: map[ht.Level]*ecdsa.PrivateKey{ht.Host: ht.ECKey(elliptic.P256(), 95)}}
			g.host = certPEM(sure(w.Make()).Certs[ht.Host])
		}, want: hostkey.ErrUnsigned, role: hostkey.RoleHost},
		{name: "signing certificate in the document's place", give: func(g *given) { g.host = certPEM(g.made.Certs[ht.Signing]) }, want: hostkey.ErrCurve},
	}
	return cases
}

func subjectAt(now time.Time, change func(*pkix.Name)) ht.World {
	n := ht.SigningName()
	change(&n)
	return ht.World{Now: now, Cert: map[ht.Level]cert{ht.Signing: func(t *x509.Certificate) { t.Subject = n }}}
}

// withCRL gives the signing key's CRL another issuer's name.
func withCRL(w ht.World, n pkix.Name, change ...func(*pkix.Name)) ht.World {
	for _, c := range change {
		c(&n)
	}
	w.CRL = map[ht.Level]list{ht.Signing: func(l *ht.List) { l.Issuer = rawName(n) }}
	return w
}

// reordered turns the order of the entries of the Poughkeepsie name around.
func reordered(w ht.World) ht.World {
	w.CRL = map[ht.Level]list{ht.Signing: func(l *ht.List) { l.Issuer = reorder(rawName(ht.SigningName())) }}
	return w
}
