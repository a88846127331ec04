package hostkey

import (
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// verdict is what checking a CRL against its issuer gave: no reason means it
// is valid. The step tells how far it came.
type verdict struct {
	crl    CRL
	reason *Reason
	detail string
	step   int
}

// checkCRL checks a CRL of an issuer: complete, understood, signed, in time.
// The order is that of steps: the farther one comes the more it is the CRL
// that was meant.
func checkCRL(crl CRL, issuer party, now time.Time) verdict {
	v := verdict{crl: crl}
	for i, check := range []func() (*Reason, string){
		func() (*Reason, string) {
			if weakDigest(crl.SignatureAlgorithm) {
				return ErrWeakSignature, crl.SignatureAlgorithm.String()
			}
			if issuer.CheckSignature(crl.SignatureAlgorithm, crl.RawTBSRevocationList, crl.Signature) != nil {
				return ErrCRLSignature, ""
			}
			return nil, ""
		},
		func() (*Reason, string) {
			if !namesIssuer(crl.Extensions, issuer.Certificate) {
				return ErrCRLAuthorityKey, ""
			}
			return nil, ""
		},
		func() (*Reason, string) {
			// The signing certificate has no such key usage, and needs none.
			if issuer.role != RoleSigning && issuer.KeyUsage&x509.KeyUsageCRLSign == 0 {
				return ErrCRLKeyUsage, name(issuer.Subject)
			}
			return nil, ""
		},
		func() (*Reason, string) {
			if extension(crl.Extensions, oidDelta) != nil {
				return ErrCRLDelta, ""
			}
			if id := unknownCritical(crl.RevocationList); id != "" {
				return ErrCRLCritical, id
			}
			return nil, ""
		},
		func() (*Reason, string) {
			switch {
			case crl.NextUpdate.IsZero():
				return ErrCRLNoNextUpdate, ""
			case now.Before(crl.ThisUpdate):
				return ErrCRLNotYetValid, "from " + stamp(crl.ThisUpdate) + " on"
			case now.After(crl.NextUpdate):
				return ErrCRLExpired, "on " + stamp(crl.NextUpdate)
			}
			return nil, ""
		},
	} {
		if v.reason, v.detail = check(); v.reason != nil {
			v.step = i
			return v
		}
	}
	return v
}

// issuerCRLs are the checked CRLs of one issuer.
type issuerCRLs struct {
	issuer   party
	verdicts []verdict
	notes    []string // about distribution points that gave none
	causes   []error
}

func newIssuerCRLs(issuer party, now time.Time, crls []CRL) *issuerCRLs {
	l := &issuerCRLs{issuer: issuer}
	for _, crl := range crls {
		same := sameName(crl.RawIssuer, issuer.RawSubject)
		if issuer.role == RoleSigning {
			same = signingName(crl.RawIssuer, issuer.RawSubject)
		}
		if same {
			l.verdicts = append(l.verdicts, checkCRL(crl, issuer, now))
		}
	}
	return l
}

// checkRevocation checks that a certificate is in none of its issuer's valid
// CRLs, and that there is one.
func (j *journal) checkRevocation(p party, l *issuerCRLs) {
	const crlCheck, revocation = "CRL", "revocation"
	var valid []CRL
	var best *verdict
	for i := range l.verdicts {
		v := l.verdicts[i]
		if v.reason == nil {
			if ok, why := covers(v.crl.RevocationList, p.Certificate); !ok {
				v.reason, v.detail, v.step = ErrCRLScope, why, 100
			}
		}
		if v.reason == nil {
			valid = append(valid, v.crl)
			continue
		}
		if best == nil || v.step > best.step {
			best = &v
		}
	}
	if len(valid) == 0 {
		notes := ""
		if len(l.notes) > 0 {
			notes = "; " + strings.Join(l.notes, "; ")
		}
		if best == nil {
			j.fail(p, crlCheck, ErrNoCRL, name(l.issuer.Subject)+notes, l.causes...)
		} else {
			detail := best.crl.From
			if best.detail != "" {
				detail += ": " + best.detail
			}
			j.fail(p, crlCheck, best.reason, detail+notes, l.causes...)
		}
		return
	}
	for i := range l.verdicts {
		if v := &l.verdicts[i]; v.reason != nil {
			j.warn(p, crlCheck, "%s is not used: %s", v.crl.From, v.reason.What)
		}
	}
	for _, crl := range valid {
		j.ok(p, crlCheck, "%s, until %s", crl.From, stamp(crl.NextUpdate))
	}
	for _, crl := range valid {
		if entry := entryOf(crl.RevocationList, p.SerialNumber); entry != nil {
			j.fail(p, revocation, ErrRevoked, fmt.Sprintf("on %s by %s", stamp(entry.RevocationTime), crl.From))
			return
		}
	}
	j.ok(p, revocation, "serial %x in none of %d valid CRLs", p.SerialNumber, len(valid))
}

// entryOf returns the entry of a serial number. Entries on hold count, and so
// do those that only a delta CRL may take back.
func entryOf(crl *x509.RevocationList, serial *big.Int) *x509.RevocationListEntry {
	for i := range crl.RevokedCertificateEntries {
		if e := &crl.RevokedCertificateEntries[i]; e.SerialNumber.Cmp(serial) == 0 {
			return e
		}
	}
	return nil
}
