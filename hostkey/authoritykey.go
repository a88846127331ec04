package hostkey

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
)

var (
	oidAuthorityKey = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidSubjectKey   = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidBasic        = asn1.ObjectIdentifier{2, 5, 29, 19}
)

// authorityKey is AuthorityKeyIdentifier of RFC 5280, 4.2.1.1.
type authorityKey struct {
	KeyID  []byte        `asn1:"optional,tag:0"`
	Issuer asn1.RawValue `asn1:"optional,tag:1"`
	Serial *big.Int      `asn1:"optional,tag:2"`
}

// extension returns the extension of an identifier, or nil.
func extension(list []pkix.Extension, id asn1.ObjectIdentifier) *pkix.Extension {
	for i := range list {
		if list[i].Id.Equal(id) {
			return &list[i]
		}
	}
	return nil
}

// namesIssuer tells whether the authority key identifier among extensions, if
// there is one, is that of the issuer: by key, by serial number and by the
// name of the issuer's own issuer, as far as it has them.
func namesIssuer(list []pkix.Extension, issuer *x509.Certificate) bool {
	ext := extension(list, oidAuthorityKey)
	if ext == nil {
		return true
	}
	var id authorityKey
	if rest, err := asn1.Unmarshal(ext.Value, &id); err != nil || len(rest) > 0 {
		return false
	}
	if len(id.KeyID) > 0 && len(issuer.SubjectKeyId) > 0 && !bytes.Equal(id.KeyID, issuer.SubjectKeyId) {
		return false
	}
	if id.Serial != nil && id.Serial.Cmp(issuer.SerialNumber) != 0 {
		return false
	}
	for rest := id.Issuer.Bytes; len(rest) > 0; {
		var general asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &general); err != nil {
			return false
		}
		// directoryName [4]; OpenSSL, too, looks at the first one only.
		if general.Class == asn1.ClassContextSpecific && general.Tag == 4 {
			return sameName(general.Bytes, issuer.RawIssuer)
		}
	}
	return true
}
