package hostkey

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"
)

// Policy says what documents are verified with.
type Policy struct {
	Certs []Cert // the IBM Z signing certificate and its intermediate CAs', in any order
	CRLs  []CRL  // of the signing key and each CA, in any order; others are passed over
	Roots []Cert // trusted root CAs: SystemRoots, or the owner's
	Now   time.Time
	Fetch Fetcher // nil: offline, the given CRLs only
}

// Fetcher gets CRLs from a distribution point. Fetch is called from several
// goroutines. Useful tells whether a CRL is valid for who asks: one that is
// not is neither kept nor worth keeping. Fetch also returns such CRLs, so that
// a report can say why they are not used.
type Fetcher interface {
	Fetch(ctx context.Context, url string, useful func(*x509.RevocationList) bool) ([]CRL, error)
}

// Verify tells whether documents are those of IBM Z hosts. The report lists
// each check; the error is the first document's refusal, a *[Refusal].
//
// The rules are those of pvimg (s390-tools, rust/pv/src/verify), and stricter
// where docs/host-keys.md says so: exactly one signing certificate by its
// subject; a chain to a trusted, self-signed root; dates, key strengths and a
// CRL for each certificate in it; the signing key's signature on the document,
// and a CRL of the signing key. When ctx ends meanwhile there is no report.
//
// What documents share is done once, whatever their number: chain, downloads,
// signatures of CRLs. Nothing is downloaded from an address that stands in a
// certificate before its chain of signatures is known to be good.
func Verify(ctx context.Context, docs []*Document, p Policy) (*Report, error) {
	chain := &journal{}
	v := verification{policy: p}
	signing, err := chain.pickSigning(p.Certs)
	if err == nil {
		var checks *journal
		v.path, checks = findChain(signing, p)
		chain.checks, chain.err = append(chain.checks, checks.checks...), checks.err
	}
	journals := make([]*journal, len(docs))
	var signed []party
	for i, doc := range docs {
		journals[i] = &journal{}
		host := party{Cert{doc.Cert, doc.File}, RoleHost}
		if signing.Certificate != nil && journals[i].checkDocument(host, signing, p.Now) {
			signed = append(signed, host)
		}
	}
	if chain.err == nil {
		v.gather(ctx, signed)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for i, at := range v.path {
			// The root answers for itself: its own CRL is needed too.
			chain.checkRevocation(at, v.crls[min(i+1, len(v.path)-1)])
		}
	} else {
		for _, at := range v.path {
			chain.add(at, "revocation", Skipped, "the chain is not valid")
		}
	}
	for i, doc := range docs {
		host := party{Cert{doc.Cert, doc.File}, RoleHost}
		switch {
		case v.crls == nil:
			journals[i].add(host, "revocation", Skipped, "the chain is not valid")
		case !journals[i].signed:
			journals[i].add(host, "revocation", Skipped, "the signing key did not sign it")
		default:
			journals[i].checkRevocation(host, v.crls[0])
		}
	}
	return newReport(docs, chain, journals)
}

// pickSigning splits off the one signing certificate. The same one given twice
// counts once.
func (j *journal) pickSigning(certs []Cert) (signing Cert, err error) {
	const what = "subject"
	for _, c := range certs {
		switch {
		case !isSigning(c.Certificate):
		case signing.Certificate == nil:
			signing = c
		case !signing.Equal(c.Certificate):
			j.fail(party{c, RoleSigning}, what, ErrManySigningCerts, fmt.Sprintf("%s and %s", signing.File, c.File))
			return Cert{}, j.err
		}
	}
	if signing.Certificate == nil {
		j.fail(party{role: RoleSigning}, what, ErrNoSigningCert, fmt.Sprintf("none of %d certificates has its subject", len(certs)))
		return Cert{}, j.err
	}
	j.ok(party{signing, RoleSigning}, what, "the only one given")
	return signing, nil
}

// checkDocument checks a document by itself and against the signing
// certificate, and tells whether that one's key signed it. The issuer's name
// does not count: IBM's documents do not keep to it.
func (j *journal) checkDocument(host party, signing Cert, now time.Time) bool {
	j.checkKeyAndDates(host, now)
	switch {
	case weakDigest(host.SignatureAlgorithm):
		j.fail(host, "signature", ErrWeakSignature, host.SignatureAlgorithm.String())
		return false
	// CheckSignatureFrom would refuse IBM's chain: the signing certificate is
	// no CA and lacks the key usage of one.
	case signing.CheckSignature(host.SignatureAlgorithm, host.RawTBSCertificate, host.Signature) != nil:
		j.fail(host, "signature", ErrUnsigned, name(signing.Subject)+" in "+signing.File)
		return false
	}
	j.ok(host, "signature", "by %s", signing.File)
	if !namesIssuer(host.Extensions, signing.Certificate) {
		j.fail(host, "authority key", ErrAuthorityKey, signing.File)
	}
	j.signed = true
	return true
}

func newReport(docs []*Document, chain *journal, journals []*journal) (*Report, error) {
	r := &Report{Accepted: true, Chain: chain.checks}
	var first error
	for i, doc := range docs {
		err := chain.err
		if err == nil {
			err = journals[i].err
		}
		r.Documents = append(r.Documents, DocumentReport{
			File: doc.File, Subject: doc.Subject(), Serial: fmt.Sprintf("%x", doc.Cert.SerialNumber), Hash: fmt.Sprintf("%x", doc.Hash()),
			Accepted: err == nil, Checks: journals[i].checks, Err: err,
		})
		if err != nil && first == nil {
			first = err
		}
	}
	r.Accepted = first == nil && len(docs) > 0
	return r, first
}
