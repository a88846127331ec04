package hostkey

import (
	"context"
	"crypto/x509"
	"sync"
)

// maxFetches bounds the downloads of one verification: what a document or CA
// names beyond that is passed over.
const maxFetches = 32

// verification holds what documents share.
type verification struct {
	policy Policy
	path   []party       // signing certificate to root
	crls   []*issuerCRLs // of path's certificates as issuers, by the same index
}

// gather collects the CRLs of each issuer: those given, and when online those
// of all distribution points, fetched side by side.
func (v *verification) gather(ctx context.Context, hosts []party) {
	v.crls = make([]*issuerCRLs, len(v.path))
	for i, issuer := range v.path {
		v.crls[i] = newIssuerCRLs(issuer, v.policy.Now, v.policy.CRLs)
	}
	if v.policy.Fetch == nil {
		return
	}
	type point struct {
		url    string
		issuer int // in path
	}
	var points []point
	seen := make(map[point]bool)
	add := func(cert *x509.Certificate, issuer int) {
		for _, url := range cert.CRLDistributionPoints {
			if p := (point{url, issuer}); !seen[p] && len(points) < maxFetches {
				seen[p] = true
				points = append(points, p)
			}
		}
	}
	for i, at := range v.path {
		add(at.Certificate, min(i+1, len(v.path)-1))
	}
	for _, host := range hosts {
		add(host.Certificate, 0)
	}
	type answer struct {
		crls []CRL
		err  error
	}
	answers := make([]answer, len(points))
	var wait sync.WaitGroup
	for i, p := range points {
		wait.Go(func() {
			issuer := v.path[p.issuer]
			answers[i].crls, answers[i].err = v.policy.Fetch.Fetch(ctx, p.url, func(crl *x509.RevocationList) bool {
				verdicts := newIssuerCRLs(issuer, v.policy.Now, []CRL{{crl, p.url}}).verdicts
				return len(verdicts) == 1 && verdicts[0].reason == nil
			})
		})
	}
	wait.Wait()
	for i, p := range points {
		l := v.crls[p.issuer]
		if err := answers[i].err; err != nil {
			l.notes = append(l.notes, err.Error())
			l.causes = append(l.causes, err)
		}
		got := newIssuerCRLs(l.issuer, v.policy.Now, answers[i].crls).verdicts
		if answers[i].err == nil && len(got) == 0 {
			l.notes = append(l.notes, "the CRL at "+p.url+" is another issuer's")
		}
		l.verdicts = append(l.verdicts, got...)
	}
}
