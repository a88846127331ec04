package seimage

import (
	"bytes"
	"crypto/ecdh"
	"crypto/elliptic"
	"math/big"
	"testing"

	"github.com/secexec/secexec/hostkey"
)

// The customer key's arithmetic is that of crypto/ecdh.
func TestCustomerAgreesWithECDH(t *testing.T) {
	t.Parallel()
	host := privateHost(t, 1).PublicKey()
	for range 5 {
		key, err := ecdh.P521().GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		c := &customer{key.Bytes()}
		want, err := hostkey.Coordinates(key.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.public(); err != nil || got != want {
			t.Errorf("public key of %x: %x, %v", key.Bytes(), got, err)
		}
		shared, err := key.ECDH(host)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.shared(host); err != nil || !bytes.Equal(got, shared) {
			t.Errorf("shared secret of %x: %x, %v", key.Bytes(), []byte(got), err)
		}
	}
}

// A candidate is a scalar exactly where crypto/ecdh takes it for one.
func TestScalars(t *testing.T) {
	t.Parallel()
	n := elliptic.P521().Params().N
	for _, c := range []struct {
		name string
		n    *big.Int
	}{
		{"zero", big.NewInt(0)},
		{"one", big.NewInt(1)},
		{"largest", new(big.Int).Sub(n, big.NewInt(1))},
		{"order", n},
		{"above", new(big.Int).Add(n, big.NewInt(1))},
		{"521 bits", new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 521), big.NewInt(1))},
	} {
		b := c.n.FillBytes(make([]byte, scalarSize))
		_, err := ecdh.P521().NewPrivateKey(b)
		if isScalar(b) != (err == nil) {
			t.Errorf("%s: %v, crypto/ecdh says %v", c.name, isScalar(b), err)
		}
	}
}
