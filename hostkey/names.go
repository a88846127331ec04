package hostkey

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
)

// isSigning tells whether a certificate is an IBM Z signing certificate by its
// subject: exactly six entries, one of them the organisational unit that ends
// in "Key Signing Service".
func isSigning(cert *x509.Certificate) bool {
	const org = "International Business Machines Corporation"
	s := cert.Subject
	one := func(values []string, want ...string) bool {
		return len(values) == 1 && slices.Contains(want, values[0])
	}
	return len(s.Names) == 6 && one(s.Country, "US") && one(s.Province, "New York") && one(s.Locality, poughkeepsie, armonk) &&
		one(s.Organization, org) && s.CommonName == org &&
		len(s.OrganizationalUnit) == 1 && strings.HasSuffix(s.OrganizationalUnit[0], "Key Signing Service")
}

const (
	poughkeepsie = "Poughkeepsie"
	armonk       = "Armonk"
)

var oidLocality = asn1.ObjectIdentifier{2, 5, 4, 7}

// entries returns a DER name's entries, each as "oid=value", in a form that
// two encodings of one name share: string types, case and runs of spaces do
// not count (RFC 5280, 7.1). It returns nil for what is no name.
func entries(der []byte) []string {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &rdns); err != nil || len(rest) > 0 {
		return nil
	}
	var out []string
	for _, rdn := range rdns {
		for _, e := range rdn {
			out = append(out, entry(e.Type, fmt.Sprint(e.Value)))
		}
	}
	return out
}

func entry(oid asn1.ObjectIdentifier, value string) string {
	return oid.String() + "=" + strings.ToLower(strings.Join(strings.Fields(value), " "))
}

// sameName compares two DER names.
func sameName(a, b []byte) bool {
	x, y := entries(a), entries(b)
	return x != nil && slices.Equal(x, y)
}

// signingName tells whether a CRL's issuer is a signing certificate's subject.
// IBM's own do not match to the letter: entries come in another order, and the
// certificate says Armonk where the CRL says Poughkeepsie, never the reverse.
func signingName(issuer, subject []byte) bool {
	x, y := entries(issuer), entries(subject)
	if x == nil || y == nil {
		return false
	}
	slices.Sort(x)
	slices.Sort(y)
	if slices.Equal(x, y) {
		return true
	}
	at := slices.Index(y, entry(oidLocality, armonk))
	if at < 0 {
		return false
	}
	y[at] = entry(oidLocality, poughkeepsie)
	slices.Sort(y)
	return slices.Equal(x, y)
}
