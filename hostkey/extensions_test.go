package hostkey

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"testing"
)

// FuzzExtensions feeds the parsers behind a CRL's signature, which a fuzzer
// can't make: authority key identifier, issuing distribution point, names.
func FuzzExtensions(f *testing.F) {
	f.Add([]byte{0x30, 0})
	f.Add([]byte{0x30, 3, 0x84, 1, 0xff})
	f.Add([]byte{0x30, 6, 0xa0, 4, 0xa0, 2, 0x86, 0})
	f.Add([]byte{0x30, 4, 0x80, 2, 1, 2})
	f.Add([]byte{0x30, 13, 0x31, 11, 0x30, 9, 6, 3, 85, 4, 6, 0x13, 2, 'U', 'S'})
	f.Fuzz(func(t *testing.T, der []byte) {
		cert := &x509.Certificate{SerialNumber: big.NewInt(1), SubjectKeyId: []byte{1, 2}, CRLDistributionPoints: []string{"http://crl.example/"}}
		ext := []pkix.Extension{{Id: oidAuthorityKey, Value: der}, {Id: oidIssuingPoint, Value: der}}
		namesIssuer(ext, cert)
		if ok, why := covers(&x509.RevocationList{Extensions: ext}, cert); ok == (why != "") {
			t.Errorf("%v without a reason, or the reverse: %q", ok, why)
		}
		if n := entries(der); n != nil && !sameName(der, der) {
			t.Errorf("a name is not its own: %q", n)
		}
		signingName(der, der)
	})
}

func TestAuthorityKey(t *testing.T) {
	t.Parallel()
	name := func(cn string) []byte {
		der, err := asn1.Marshal(pkix.Name{CommonName: cn}.ToRDNSequence())
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	wrap := func(tag byte, parts ...[]byte) []byte {
		body := slices.Concat(parts...)
		return append([]byte{tag, byte(len(body))}, body...)
	}
	issuer := &x509.Certificate{SerialNumber: big.NewInt(7), SubjectKeyId: []byte{1, 2, 3}, RawIssuer: name("grandparent")}
	key, otherKey := wrap(0x80, []byte{1, 2, 3}), wrap(0x80, []byte{1, 2, 4})
	serial, otherSerial := wrap(0x82, []byte{7}), wrap(0x82, []byte{8})
	directory := func(cn string) []byte { return wrap(0xa1, wrap(0xa4, name(cn))) }
	for _, c := range []struct {
		what string
		der  []byte
		want bool
	}{
		{"nothing in it", wrap(0x30), true},
		{"key", wrap(0x30, key), true},
		{"another key", wrap(0x30, otherKey), false},
		{"all three", wrap(0x30, key, directory("grandparent"), serial), true},
		{"another serial number", wrap(0x30, key, directory("grandparent"), otherSerial), false},
		{"another name", wrap(0x30, key, directory("someone"), serial), false},
		{"name in capitals", wrap(0x30, directory("GrandParent"), serial), true},
		{"something behind it", append(wrap(0x30, key), 0), false},
		{"no sequence", []byte{5, 0}, false},
		{"empty", nil, false},
	} {
		if got := namesIssuer([]pkix.Extension{{Id: oidAuthorityKey, Value: c.der}}, issuer); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
	if !namesIssuer(nil, issuer) {
		t.Error("absent: refused")
	}
}

func TestScope(t *testing.T) {
	t.Parallel()
	point := func(uri string) []byte {
		out := []byte(uri)
		for _, tag := range []byte{0x86, 0xa0, 0xa0, 0x30} {
			out = append([]byte{tag, byte(len(out))}, out...)
		}
		return out
	}
	user := &x509.Certificate{CRLDistributionPoints: []string{"http://a/"}}
	ca := &x509.Certificate{IsCA: true}
	for _, c := range []struct {
		what string
		der  []byte
		cert *x509.Certificate
		want bool
	}{
		{"all", []byte{0x30, 0}, user, true},
		{"users, a user", []byte{0x30, 3, 0x81, 1, 0xff}, user, true},
		{"users, a CA", []byte{0x30, 3, 0x81, 1, 0xff}, ca, false},
		{"CAs, a user", []byte{0x30, 3, 0x82, 1, 0xff}, user, false},
		{"CAs, a CA", []byte{0x30, 3, 0x82, 1, 0xff}, ca, true},
		{"some reasons", []byte{0x30, 4, 0x83, 2, 1, 0x40}, user, false},
		{"indirect", []byte{0x30, 3, 0x84, 1, 0xff}, user, false},
		{"attributes", []byte{0x30, 3, 0x85, 1, 0xff}, user, false},
		{"its point", point("http://a/"), user, true},
		{"another point", point("http://b/"), user, false},
		{"a point, none in the certificate", point("http://a/"), ca, false},
		{"malformed", []byte{0x30, 9}, user, false},
	} {
		crl := &x509.RevocationList{Extensions: []pkix.Extension{{Id: oidIssuingPoint, Value: c.der}}}
		if got, why := covers(crl, c.cert); got != c.want {
			t.Errorf("%s: %v %s", c.what, got, why)
		}
	}
}
