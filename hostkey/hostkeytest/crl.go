package hostkeytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// List is what a CRL says. The standard library's encoder refuses most of what
// a verifier has to be tested with, so this one encodes anything.
type List struct {
	Issuer     []byte // a DER name
	ThisUpdate time.Time
	NextUpdate time.Time // zero: absent
	Revoked    []pkix.RevokedCertificate
	Extensions []pkix.Extension
	SHA1       bool // sign with this weak digest
}

var (
	oidECDSAWithSHA1   = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidAuthorityKey    = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidCRLNumber       = asn1.ObjectIdentifier{2, 5, 29, 20}
)

// NewList returns an empty CRL of an issuer, valid around now, with authority
// key identifier and number.
func NewList(issuer *x509.Certificate, now time.Time) List {
	number, _ := asn1.Marshal(1)
	l := List{
		Issuer: issuer.RawSubject, ThisUpdate: now.Add(-Before), NextUpdate: now.Add(After),
		Extensions: []pkix.Extension{{Id: oidCRLNumber, Value: number}},
	}
	if len(issuer.SubjectKeyId) > 0 {
		l.Extensions = append(l.Extensions, AuthorityKey(issuer.SubjectKeyId))
	}
	return l
}

// AuthorityKey returns an authority key identifier with a key's identifier.
func AuthorityKey(id []byte) pkix.Extension {
	der, _ := asn1.Marshal(struct {
		ID []byte `asn1:"tag:0"`
	}{id})
	return pkix.Extension{Id: oidAuthorityKey, Value: der}
}

// Revoke adds a serial number.
func (l *List) Revoke(serial *big.Int) {
	l.Revoked = append(l.Revoked, pkix.RevokedCertificate{SerialNumber: serial, RevocationTime: l.ThisUpdate.UTC()})
}

// Sign encodes the CRL and signs it.
func (l List) Sign(key *ecdsa.PrivateKey) (der []byte, err error) {
	algorithm, hash := pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA256}, crypto.SHA256
	if l.SHA1 {
		algorithm, hash = pkix.AlgorithmIdentifier{Algorithm: oidECDSAWithSHA1}, crypto.SHA1
	}
	tbs, err := asn1.Marshal(struct {
		Version    int
		Signature  pkix.AlgorithmIdentifier
		Issuer     asn1.RawValue
		ThisUpdate time.Time
		NextUpdate time.Time                 `asn1:"optional"`
		Revoked    []pkix.RevokedCertificate `asn1:"optional,omitempty"`
		Extensions []pkix.Extension          `asn1:"tag:0,optional,explicit,omitempty"`
	}{1, algorithm, asn1.RawValue{FullBytes: l.Issuer}, l.ThisUpdate.UTC(), utc(l.NextUpdate), l.Revoked, l.Extensions})
	if err != nil {
		return nil, fmt.Errorf("encode CRL: %w", err)
	}
	var digest []byte
	if hash == crypto.SHA1 {
		sum := sha1.Sum(tbs)
		digest = sum[:]
	} else {
		sum := sha256.Sum256(tbs)
		digest = sum[:]
	}
	signature, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		return nil, fmt.Errorf("sign CRL: %w", err)
	}
	der, err = asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		return nil, fmt.Errorf("encode CRL: %w", err)
	}
	return der, nil
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC()
}

// CRLPEM returns a CRL in PEM.
func CRLPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}
