package hostkey

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// MaxFileSize bounds a file of certificates and CRLs, and a downloaded CRL.
// Public CAs' CRLs reach some megabytes.
const MaxFileSize = 16 << 20

// maxPerFile bounds how many certificates and CRLs a file has: each CRL of the
// right name costs a signature check.
const maxPerFile = 1000

// Cert is a certificate and where it came from.
type Cert struct {
	*x509.Certificate
	File string
}

// CRL is a certificate revocation list and where it came from, a file or a URL.
type CRL struct {
	*x509.RevocationList
	From string
}

// ErrNothing says that a file holds neither a certificate nor a CRL.
var ErrNothing = errors.New("neither a certificate nor a CRL in PEM or DER")

// ParseFile parses what certificate files hold: one certificate or CRL in DER,
// or any number of both in PEM, mixed. Other PEM blocks are passed over. A
// block that is damaged refuses the file. From names the file.
func ParseFile(from string, data []byte) ([]Cert, []CRL, error) {
	if len(data) > MaxFileSize {
		return nil, nil, fmt.Errorf("%d bytes, at most %d: %w", len(data), MaxFileSize, ErrNothing)
	}
	if cert, err := x509.ParseCertificate(data); err == nil {
		return []Cert{{cert, from}}, nil, nil
	}
	if crl, err := x509.ParseRevocationList(data); err == nil {
		return nil, []CRL{{crl, from}}, nil
	}
	var certs []Cert
	var crls []CRL
	other := ""
	for n, rest := 1, data; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if n > maxPerFile {
			return nil, nil, fmt.Errorf("more than %d PEM blocks: %w", maxPerFile, ErrNothing)
		}
		switch block.Type {
		case "CERTIFICATE", "X509 CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("parse certificate, PEM block %d: %w", n, err)
			}
			certs = append(certs, Cert{cert, from})
		case "X509 CRL":
			crl, err := x509.ParseRevocationList(block.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("parse CRL, PEM block %d: %w", n, err)
			}
			crls = append(crls, CRL{crl, from})
		default:
			other = block.Type
		}
	}
	switch {
	case len(certs)+len(crls) > 0:
		return certs, crls, nil
	case other != "":
		return nil, nil, fmt.Errorf("%w: it holds a %.40q", ErrNothing, other)
	}
	return nil, nil, ErrNothing
}
