package hostkey

import (
	"bytes"
	"crypto/x509"
	"fmt"
)

// Bounds on the search for a chain. More than maxIntermediates are followed by
// one, to say that they are too many.
const (
	maxIntermediates = 2
	maxCerts         = 100 // that are given
	maxSteps         = 100 // of the search, so that many CAs of one name can't stall it
)

// deadEnd is why no chain went on from a certificate.
type deadEnd struct {
	at     party
	reason *Reason
	detail string
	depth  int
}

// search looks for chains from a signing certificate to a trusted root.
// Issuers are found by name, as it stands, and by signature.
type search struct {
	cas   []Cert // intermediate CAs, and roots' files' other certificates
	roots []Cert
	steps int
	found [][]party
	stuck deadEnd // the one that came farthest
}

// extend follows the chain upwards from its last certificate.
func (s *search) extend(path []party) {
	top := path[len(path)-1]
	dead := func(reason *Reason, format string, args ...any) {
		if len(path) > s.stuck.depth {
			s.stuck = deadEnd{top, reason, fmt.Sprintf(format, args...), len(path)}
		}
	}
	if s.steps++; s.steps > maxSteps {
		dead(ErrChain, "too many certificates of one name")
		return
	}
	if weakDigest(top.SignatureAlgorithm) {
		dead(ErrWeakSignature, "%s", top.SignatureAlgorithm)
		return
	}
	named, signed := false, false
	try := func(issuer Cert, root bool) {
		if !bytes.Equal(issuer.RawSubject, top.RawIssuer) || onPath(path, issuer) {
			return
		}
		named = true
		if issuer.CheckSignature(top.SignatureAlgorithm, top.RawTBSCertificate, top.Signature) != nil {
			dead(ErrIssuerSignature, "issuer %s in %s", name(issuer.Subject), issuer.File)
			return
		}
		signed = true
		role := RoleIntermediate
		if root {
			role = RoleRoot
		}
		next := append(path[:len(path):len(path)], party{issuer, role})
		switch {
		case root && !selfSigned(issuer.Certificate):
			dead(ErrRoot, "%s in %s", name(issuer.Subject), issuer.File)
		case root:
			s.found = append(s.found, next)
		case selfSigned(issuer.Certificate):
			dead(ErrUntrustedRoot, "%s in %s", name(issuer.Subject), issuer.File)
		case len(next)-1 > maxIntermediates+1:
			dead(ErrChainLength, "from %s up", name(path[0].Subject))
		default:
			s.extend(next)
		}
	}
	for _, issuer := range s.roots {
		try(issuer, true)
	}
	for _, issuer := range s.cas {
		try(issuer, false)
	}
	switch {
	case signed:
	case selfSigned(top.Certificate):
		dead(ErrUntrustedRoot, "it is self-signed")
	case !named:
		dead(ErrNoIssuer, "%s", name(top.Issuer))
	}
}

func onPath(path []party, c Cert) bool {
	for _, p := range path {
		if p.Equal(c.Certificate) {
			return true
		}
	}
	return false
}

func selfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

func selfSigned(c *x509.Certificate) bool {
	return selfIssued(c) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// findChain returns the chain from the signing certificate to a root, with the
// checks of each certificate in it. Where several lead there it takes the
// first that is valid, or else the first.
func findChain(signing Cert, p Policy) ([]party, *journal) {
	start := party{signing, RoleSigning}
	s := search{stuck: deadEnd{at: start, reason: ErrChain}}
	for _, c := range p.Certs {
		if !isSigning(c.Certificate) {
			s.cas = append(s.cas, c)
		}
	}
	for _, c := range p.Roots {
		if selfIssued(c.Certificate) { // its signature is checked once it is used: there are many roots
			s.roots = append(s.roots, c)
		} else {
			s.cas = append(s.cas, c)
		}
	}
	j := &journal{}
	if len(p.Roots) > 0 && len(s.roots) == 0 {
		j.fail(party{p.Roots[0], RoleRoot}, "trust", ErrRoot, "")
		return nil, j
	}
	if len(p.Certs) > maxCerts {
		j.fail(start, "chain", ErrChain, fmt.Sprintf("%d certificates given, at most %d", len(p.Certs), maxCerts))
		return nil, j
	}
	s.extend([]party{start})
	if len(s.found) == 0 {
		j.checkKeyAndDates(start, p.Now)
		if s.stuck.depth > 1 {
			j.checkKeyAndDates(s.stuck.at, p.Now)
		}
		j.err = nil // why there is no chain counts more than a date
		j.fail(s.stuck.at, "issuer", s.stuck.reason, s.stuck.detail)
		return nil, j
	}
	var best []party
	for _, path := range s.found {
		if checks := checkChain(path, p); best == nil || checks.err == nil {
			best, j = path, checks
			if checks.err == nil {
				break
			}
		}
	}
	return best, j
}

// checkChain checks a chain whose signatures are right.
func checkChain(path []party, p Policy) *journal {
	j := &journal{}
	if n := len(path) - 2; n > maxIntermediates {
		j.fail(path[0], "chain length", ErrChainLength, fmt.Sprint(n))
	} else {
		j.ok(path[0], "chain length", "%d intermediate CAs", n)
	}
	below := 0 // CAs between this one and the signing certificate that count against a path length
	for i, at := range path {
		j.checkKeyAndDates(at, p.Now)
		last := i == len(path)-1
		if breach := profileBreach(at.Certificate, last); breach != "" {
			j.fail(at, "profile", ErrProfile, breach)
		}
		if !last {
			issuer := path[i+1]
			if namesIssuer(at.Extensions, issuer.Certificate) {
				j.ok(at, "issuer", "%s in %s", name(issuer.Subject), issuer.File)
			} else {
				j.fail(at, "issuer", ErrAuthorityKey, "issuer "+issuer.File)
			}
		}
		if i == 0 {
			continue
		}
		switch {
		case !at.BasicConstraintsValid || !at.IsCA:
			j.fail(at, "CA", ErrNotCA, "")
		case at.KeyUsage&x509.KeyUsageCertSign == 0:
			j.fail(at, "CA", ErrKeyUsage, "")
		case at.MaxPathLen >= 0 && below > at.MaxPathLen:
			j.fail(at, "CA", ErrPathLength, fmt.Sprintf("%d, it allows %d", below, at.MaxPathLen))
		default:
			j.ok(at, "CA", "may issue certificates")
		}
		if !selfIssued(at.Certificate) {
			below++
		}
	}
	if j.err != nil {
		return j
	}
	// The standard library's rules too: name constraints, policies.
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
		CurrentTime: p.Now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, at := range path[1 : len(path)-1] {
		opts.Intermediates.AddCert(at.Certificate)
	}
	root := path[len(path)-1]
	opts.Roots.AddCert(root.Certificate)
	if _, err := path[0].Verify(opts); err != nil {
		j.fail(path[0], "chain", ErrChain, err.Error(), err)
	} else {
		j.ok(root, "trust", "trusted and self-signed")
	}
	return j
}
