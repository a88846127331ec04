// Package hostkey reads and verifies host key documents: X.509 certificates of
// a host's P-521 public key, issued by the IBM Z signing key.
//
// A key slot in an SE image is for the key in such a document, so whoever
// slips a document of his own into a build can open the image. [Verify] is
// what stands against that.
package hostkey

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
)

// ErrDocument says that bytes are no host key document.
var ErrDocument = errors.New("not a host key document")

// Document is a parsed host key document.
type Document struct {
	Cert *x509.Certificate
	Key  *ecdsa.PublicKey // on P-521
	File string           // where it came from, for messages

	point *ecdh.PublicKey
}

// Parse parses a host key document, PEM or DER. Only the first certificate of
// a PEM file counts; the warnings say so when there are more.
func Parse(data []byte) (*Document, []string, error) {
	if len(data) > MaxSize {
		return nil, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrDocument, len(data), MaxSize)
	}
	certs, crls, err := ParseFile("", data)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if len(certs) == 0 {
		return nil, nil, fmt.Errorf("%w: it holds %d CRLs and no certificate", ErrDocument, len(crls))
	}
	doc := &Document{Cert: certs[0].Certificate}
	var ok bool
	if doc.Key, ok = doc.Cert.PublicKey.(*ecdsa.PublicKey); !ok {
		return nil, nil, fmt.Errorf("%w: it certifies a key of type %s: %w", ErrDocument, doc.Cert.PublicKeyAlgorithm, ErrCurve)
	}
	if doc.point, err = doc.Key.ECDH(); err != nil || doc.point.Curve() != ecdh.P521() {
		return nil, nil, fmt.Errorf("%w: it certifies a key on %s: %w", ErrDocument, doc.Key.Params().Name, ErrCurve)
	}
	var warnings []string
	if len(certs) > 1 {
		warnings = append(warnings, fmt.Sprintf("it holds %d certificates, only the first one counts", len(certs)))
	}
	return doc, warnings, nil
}

// Hash returns the host key's name in key slots.
func (d *Document) Hash() [32]byte {
	h, _ := Hash(d.point)
	return h
}

// Subject returns the certificate's subject in one line.
func (d *Document) Subject() string { return d.Cert.Subject.String() }
