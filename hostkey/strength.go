package hostkey

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"time"
)

// minStrength is the least security level of a key or digest, in bits.
const minStrength = 112

// strength is a key's security level in bits (NIST SP 800-57 part 1, table 2).
// A kind of key that is not known has none.
func strength(key any) int {
	switch key := key.(type) {
	case *rsa.PublicKey:
		switch bits := key.N.BitLen(); {
		case bits >= 3072:
			return 128
		case bits >= 2048:
			return 112
		}
		return 80
	case *ecdsa.PublicKey:
		return min(key.Params().BitSize/2, 256)
	case ed25519.PublicKey:
		return 128
	}
	return 0
}

// weakDigest tells whether a signature's digest is MD5 or older, or SHA-1.
func weakDigest(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return true
	}
	return false
}

// checkKeyAndDates checks what holds at every place of the chain: dates, key
// strength, critical extensions.
func (j *journal) checkKeyAndDates(p party, now time.Time) {
	from, to := stamp(p.NotBefore), stamp(p.NotAfter)
	switch {
	case now.Before(p.NotBefore):
		j.fail(p, "dates", ErrNotYetValid, "from "+from+" on")
	case now.After(p.NotAfter):
		j.fail(p, "dates", ErrExpired, "on "+to)
	default:
		j.ok(p, "dates", "%s to %s", from, to)
	}
	if bits := strength(p.PublicKey); bits < minStrength {
		j.fail(p, "key strength", ErrWeakKey, p.PublicKeyAlgorithm.String())
	} else {
		j.ok(p, "key strength", "%s, %d bits", p.PublicKeyAlgorithm, bits)
	}
	if unknown := p.UnhandledCriticalExtensions; len(unknown) > 0 {
		j.fail(p, "extensions", ErrCritical, unknown[0].String())
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
