package hostkey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Reasons why a host key document is not accepted. Each error that wraps one
// names the certificate's subject.
var (
	ErrNoSigningCert    = errors.New("no IBM Z signing certificate given")
	ErrManySigningCerts = errors.New("more than one IBM Z signing certificate given")
	ErrExpired          = errors.New("certificate has expired")
	ErrNotYetValid      = errors.New("certificate is not valid yet")
	ErrWeakKey          = errors.New("key has less than 112 bits of security")
	ErrUnsigned         = errors.New("not signed by the IBM Z signing key")
	ErrAuthorityKey     = errors.New("authority key identifier is another key's")
	ErrChain            = errors.New("signing certificate does not lead to the root CA")
	ErrRoot             = errors.New("root CA certificate is not self-signed")
)

// Policy says what a document is verified with.
type Policy struct {
	Certs []*x509.Certificate // the IBM Z signing certificate and up to two intermediate CAs'
	Root  *x509.Certificate   // nil: any root of the system
	Now   time.Time
}

// maxIntermediates is how many CAs may lie between signing certificate and root.
const maxIntermediates = 2

// Verify reports why a document is not that of an IBM Z host, or nil. It does
// not consult revocation lists.
//
// The rules are those of pvimg (s390-tools, rust/pv/src/verify): exactly one
// signing certificate by its subject, a chain to a self-signed root, dates and
// key strengths everywhere, the signing key's signature on the document.
func Verify(doc *Document, p Policy) error {
	signing, others, err := splitSigning(p.Certs)
	if err != nil {
		return err
	}
	if err := verifyChain(signing, others, p); err != nil {
		return err
	}
	for _, cert := range []*x509.Certificate{signing, doc.Cert} {
		if err := checkOne(cert, p.Now); err != nil {
			return err
		}
	}
	// CheckSignatureFrom would refuse IBM's chain: the signing certificate is
	// no CA and lacks the key usage of one.
	if err := signing.CheckSignature(doc.Cert.SignatureAlgorithm, doc.Cert.RawTBSCertificate, doc.Cert.Signature); err != nil {
		return refused(doc.Cert, ErrUnsigned)
	}
	if id := doc.Cert.AuthorityKeyId; len(id) > 0 && len(signing.SubjectKeyId) > 0 && !bytes.Equal(id, signing.SubjectKeyId) {
		return refused(doc.Cert, ErrAuthorityKey)
	}
	return nil
}

// IsSigning tells whether a certificate is an IBM Z signing certificate by its
// subject: exactly six entries, one of them the organisational unit that ends
// in "Key Signing Service".
func IsSigning(cert *x509.Certificate) bool {
	const org = "International Business Machines Corporation"
	s := cert.Subject
	one := func(values []string, want ...string) bool {
		return len(values) == 1 && slices.Contains(want, values[0])
	}
	return len(s.Names) == 6 && one(s.Country, "US") && one(s.Province, "New York") && one(s.Locality, "Poughkeepsie", "Armonk") &&
		one(s.Organization, org) && s.CommonName == org &&
		len(s.OrganizationalUnit) == 1 && strings.HasSuffix(s.OrganizationalUnit[0], "Key Signing Service")
}

func splitSigning(certs []*x509.Certificate) (signing *x509.Certificate, others []*x509.Certificate, err error) {
	for _, cert := range certs {
		switch {
		case !IsSigning(cert):
			others = append(others, cert)
		case signing != nil && !signing.Equal(cert):
			return nil, nil, fmt.Errorf("%w: %s and %s", ErrManySigningCerts, name(signing.Subject), name(cert.Subject))
		default:
			signing = cert
		}
	}
	if signing == nil {
		return nil, nil, ErrNoSigningCert
	}
	return signing, others, nil
}

// verifyChain builds the chain from the signing certificate to a root and
// checks what x509.Verify leaves out.
func verifyChain(signing *x509.Certificate, others []*x509.Certificate, p Policy) error {
	opts := x509.VerifyOptions{
		Intermediates: x509.NewCertPool(),
		CurrentTime:   p.Now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, cert := range others {
		opts.Intermediates.AddCert(cert)
	}
	if p.Root != nil {
		if err := checkOne(p.Root, p.Now); err != nil {
			return err
		}
		if p.Root.CheckSignature(p.Root.SignatureAlgorithm, p.Root.RawTBSCertificate, p.Root.Signature) != nil {
			return refused(p.Root, ErrRoot)
		}
		opts.Roots = x509.NewCertPool()
		opts.Roots.AddCert(p.Root)
	}
	// A date that is off gives a clearer reason than "no chain".
	for _, cert := range append(others, signing) {
		if err := checkOne(cert, p.Now); err != nil {
			return err
		}
	}
	chains, err := signing.Verify(opts)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", name(signing.Subject), ErrChain, err)
	}
	for _, chain := range chains {
		if err = checkChain(chain, p.Now); err == nil {
			return nil
		}
	}
	return err
}

func checkChain(chain []*x509.Certificate, now time.Time) error {
	if len(chain)-2 > maxIntermediates {
		return refused(chain[0], fmt.Errorf("%w: %d intermediate CAs, at most %d", ErrChain, len(chain)-2, maxIntermediates))
	}
	for _, cert := range chain {
		if err := checkOne(cert, now); err != nil {
			return err
		}
	}
	root := chain[len(chain)-1]
	if root.CheckSignature(root.SignatureAlgorithm, root.RawTBSCertificate, root.Signature) != nil {
		return refused(root, ErrRoot)
	}
	return nil
}

// checkOne checks a certificate's dates and its key's strength.
func checkOne(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(cert.NotBefore):
		return refused(cert, fmt.Errorf("%w: from %s on", ErrNotYetValid, cert.NotBefore.UTC().Format(time.RFC3339)))
	case now.After(cert.NotAfter):
		return refused(cert, fmt.Errorf("%w: on %s; get a new one from IBM Resource Link", ErrExpired, cert.NotAfter.UTC().Format(time.RFC3339)))
	case strength(cert) < 112:
		return refused(cert, ErrWeakKey)
	}
	return nil
}

// strength is a key's security level in bits (NIST SP 800-57 part 1, table 2).
func strength(cert *x509.Certificate) int {
	switch key := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() >= 2048 {
			return 112
		}
		return 80
	case *ecdsa.PublicKey:
		return key.Params().BitSize / 2
	case ed25519.PublicKey:
		return 128
	}
	return 0
}

func refused(cert *x509.Certificate, err error) error {
	return fmt.Errorf("%s: %w", name(cert.Subject), err)
}

func name(n pkix.Name) string {
	if s := n.String(); len(s) <= 300 {
		return s
	}
	return n.String()[:300] + "…"
}
