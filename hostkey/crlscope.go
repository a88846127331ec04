package hostkey

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
)

var (
	oidIssuingPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidDelta        = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidCRLNumber    = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidReason       = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidity   = asn1.ObjectIdentifier{2, 5, 29, 24}
)

// issuingPoint is IssuingDistributionPoint of RFC 5280, 5.2.5.
type issuingPoint struct {
	Point       asn1.RawValue  `asn1:"optional,tag:0"`
	OnlyUser    bool           `asn1:"optional,tag:1"`
	OnlyCA      bool           `asn1:"optional,tag:2"`
	SomeReasons asn1.BitString `asn1:"optional,tag:3"`
	Indirect    bool           `asn1:"optional,tag:4"`
	OnlyAttr    bool           `asn1:"optional,tag:5"`
}

// covers tells whether a CRL of the certificate's issuer is about it: complete
// in reasons, not indirect, for its kind, and of one of its distribution
// points where the CRL is of some only. The second result says why not.
func covers(crl *x509.RevocationList, cert *x509.Certificate) (bool, string) {
	ext := extension(crl.Extensions, oidIssuingPoint)
	if ext == nil {
		return true, ""
	}
	var p issuingPoint
	rest, err := asn1.Unmarshal(ext.Value, &p)
	switch {
	case err != nil || len(rest) > 0:
		return false, "its issuing distribution point is malformed"
	case p.Indirect:
		return false, "it is indirect"
	case p.SomeReasons.BitLength > 0:
		return false, "it has some reasons only"
	case p.OnlyAttr:
		return false, "it is for attribute certificates"
	case p.OnlyUser && cert.IsCA:
		return false, "it is not for CAs"
	case p.OnlyCA && !cert.IsCA:
		return false, "it is for CAs"
	}
	if len(p.Point.Bytes) == 0 {
		return true, ""
	}
	for _, uri := range fullNames(p.Point.Bytes) {
		if slices.Contains(cert.CRLDistributionPoints, uri) {
			return true, ""
		}
	}
	return false, "it is of another distribution point"
}

// fullNames returns the URIs of a DistributionPointName's fullName.
func fullNames(der []byte) (uris []string) {
	var full asn1.RawValue
	if _, err := asn1.Unmarshal(der, &full); err != nil || full.Class != asn1.ClassContextSpecific || full.Tag != 0 {
		return nil
	}
	for rest := full.Bytes; len(rest) > 0; {
		var general asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &general); err != nil {
			return nil
		}
		if general.Class == asn1.ClassContextSpecific && general.Tag == 6 { // uniformResourceIdentifier
			uris = append(uris, string(general.Bytes))
		}
	}
	return uris
}

// unknownCritical returns the first critical extension of a CRL, or of an
// entry in it, that is not understood.
func unknownCritical(crl *x509.RevocationList) string {
	if id := firstCritical(crl.Extensions, oidAuthorityKey, oidCRLNumber, oidIssuingPoint, oidDelta); id != "" {
		return id
	}
	for i := range crl.RevokedCertificateEntries {
		if id := firstCritical(crl.RevokedCertificateEntries[i].Extensions, oidReason, oidInvalidity); id != "" {
			return id + " in an entry"
		}
	}
	return ""
}

func firstCritical(list []pkix.Extension, known ...asn1.ObjectIdentifier) string {
	for _, ext := range list {
		if ext.Critical && !slices.ContainsFunc(known, ext.Id.Equal) {
			return ext.Id.String()
		}
	}
	return ""
}
