package hostkey

import "crypto/x509"

// profileBreach returns the first rule of RFC 5280 for certificates of a chain
// that one breaks, or "". The rules are those that OpenSSL adds under
// X509_V_FLAG_X509_STRICT; what has a reason of its own is checked elsewhere.
// The last certificate of a chain, the root, needs no authority key identifier.
func profileBreach(c *x509.Certificate, last bool) string {
	basic, authority, subject := extension(c.Extensions, oidBasic), extension(c.Extensions, oidAuthorityKey), extension(c.Extensions, oidSubjectKey)
	switch {
	case c.Version < 3 && len(c.Extensions) > 0:
		return "extensions in a certificate before version 3"
	case len(entries(c.RawSubject)) == 0 || len(entries(c.RawIssuer)) == 0:
		return "subject or issuer is empty"
	case c.IsCA && basic != nil && !basic.Critical:
		return "basic constraints are not critical"
	case !c.IsCA && c.MaxPathLen >= 0 && c.BasicConstraintsValid:
		return "a path length, but it is no CA"
	case !c.IsCA && c.KeyUsage&x509.KeyUsageCertSign != 0:
		return "key usage of a CA, but it is no CA"
	case authority != nil && authority.Critical || subject != nil && subject.Critical:
		return "key identifier is critical"
	case c.Version >= 3 && !last && len(c.AuthorityKeyId) == 0:
		return "no authority key identifier"
	case c.Version >= 3 && c.IsCA && len(c.SubjectKeyId) == 0:
		return "no subject key identifier"
	}
	return ""
}
