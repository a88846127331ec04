package hostkey

import (
	"crypto/x509/pkix"
	"strings"
)

// Reason is why a host key document is refused: a sentinel for errors.Is, with
// a code that stays the same over versions and what the owner can do.
type Reason struct {
	Code   string // as reports and docs/host-keys.md name it
	What   string
	Remedy string
}

func (r *Reason) Error() string { return r.What }

// Remedies that several reasons share.
const (
	newDocument = "get a new document from IBM Resource Link, or ask the provider for it"
	newCRL      = "get a current CRL from the issuer's distribution point, or leave out --offline"
	askIssuer   = "get the file again from its issuer; if it is the issuer's own, do not trust it"
	rightChain  = "give IBM's signing certificate and each CA certificate up to the root by --cert; a root that the system does not know by --root-ca"
)

// Reasons about a certificate at any place of the chain.
var (
	ErrExpired       = reason("expired", "certificate has expired", newDocument)
	ErrNotYetValid   = reason("not-yet-valid", "certificate is not valid yet", "check this machine's clock")
	ErrWeakKey       = reason("weak-key", "key has less than 112 bits of security", askIssuer)
	ErrWeakSignature = reason("weak-signature", "signature's digest has less than 112 bits of security", askIssuer)
	ErrCritical      = reason("critical-extension", "certificate has a critical extension that is not understood", "verify it with a newer secexec")
	ErrAuthorityKey  = reason("authority-key", "authority key identifier is another key's", "give the certificate that issued it")
	ErrRevoked       = reason("revoked", "certificate is revoked", newDocument+": its key must not be used any more")
)

// Reasons about the chain from the signing certificate to the root.
var (
	ErrNoSigningCert    = reason("no-signing-certificate", "no IBM Z signing certificate given", rightChain)
	ErrManySigningCerts = reason("many-signing-certificates", "more than one IBM Z signing certificate given", "give the one that signed the document")
	ErrNoIssuer         = reason("no-issuer", "issuer's certificate is not given", rightChain)
	ErrIssuerSignature  = reason("issuer-signature", "signature is not by the issuer of that name", "give the certificate that issued it")
	ErrUntrustedRoot    = reason("untrusted-root", "root CA is not a trusted one", "name the root by --root-ca if you trust it")
	ErrRoot             = reason("root-not-self-signed", "root CA certificate is not self-signed", "give the self-signed certificate by --root-ca and the others by --cert")
	ErrNotCA            = reason("not-a-ca", "certificate is not a CA's", rightChain)
	ErrKeyUsage         = reason("key-usage", "key is not for signing certificates", rightChain)
	ErrPathLength       = reason("path-length", "more CAs below it than its path length allows", rightChain)
	ErrChainLength      = reason("chain-length", "more than two intermediate CAs", rightChain)
	ErrProfile          = reason("profile", "certificate breaks the rules for certificates of a chain (RFC 5280)", askIssuer)
	ErrChain            = reason("chain", "chain is not valid", rightChain)
)

// Reasons about the document and its key.
var (
	ErrUnsigned = reason("unsigned", "not signed by the IBM Z signing key", "give the signing certificate that belongs to this document, or do not trust it")
)

// Reasons about revocation lists.
var (
	ErrNoCRL           = reason("no-crl", "no CRL of its issuer", "give the issuer's CRL by --crl, or leave out --offline")
	ErrCRLSignature    = reason("crl-signature", "CRL is not signed by the issuer's key", newCRL)
	ErrCRLExpired      = reason("crl-expired", "CRL has expired", newCRL)
	ErrCRLNotYetValid  = reason("crl-not-yet-valid", "CRL is not valid yet", "check this machine's clock")
	ErrCRLNoNextUpdate = reason("crl-no-next-update", "CRL does not say when the next one comes", newCRL)
	ErrCRLAuthorityKey = reason("crl-authority-key", "CRL's authority key identifier is another key's", newCRL)
	ErrCRLKeyUsage     = reason("crl-key-usage", "issuer's key is not for signing CRLs", rightChain)
	ErrCRLCritical     = reason("crl-critical-extension", "CRL has a critical extension that is not understood", "give the issuer's complete CRL")
	ErrCRLDelta        = reason("crl-delta", "CRL is a delta CRL", "give the issuer's complete CRL")
	ErrCRLScope        = reason("crl-scope", "CRL does not cover this certificate", "give the issuer's complete CRL")
)

// Reasons lists every reason of a refusal, for documentation.
var Reasons []*Reason

func reason(code, what, remedy string) *Reason {
	r := &Reason{code, what, remedy}
	Reasons = append(Reasons, r)
	return r
}

// Role is a certificate's place in the chain.
type Role string

// The four places.
const (
	RoleHost         Role = "host key document"
	RoleSigning      Role = "IBM Z signing certificate"
	RoleIntermediate Role = "intermediate CA"
	RoleRoot         Role = "root CA"
)

// Refusal is the error for one failed check. It wraps its Reason, and what
// caused it where there is more to say.
type Refusal struct {
	Reason  *Reason
	Role    Role
	File    string // where the certificate came from
	Subject string // of the certificate
	Detail  string
	Causes  []error
}

// Error names file, subject, what is wrong and what can be done.
func (r *Refusal) Error() string {
	who := strings.TrimSpace(string(r.Role) + " " + r.File)
	if r.Subject != "" {
		who = strings.TrimSpace(who + " (" + r.Subject + ")")
	}
	if who != "" {
		who += ": "
	}
	return who + r.what() + "; " + r.Reason.Remedy
}

func (r *Refusal) what() string {
	if r.Detail == "" {
		return r.Reason.What
	}
	return r.Reason.What + ": " + r.Detail
}

func (r *Refusal) Unwrap() []error { return append([]error{r.Reason}, r.Causes...) }

// name is a distinguished name in one line that is not too long.
func name(n pkix.Name) string {
	if s := n.String(); len(s) <= 300 {
		return s
	}
	return n.String()[:300] + "…"
}
