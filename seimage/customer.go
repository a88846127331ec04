package seimage

import (
	"bytes"
	"crypto/ecdh"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha512"
	"errors"
	"fmt"

	"filippo.io/nistec"
	"golang.org/x/sync/errgroup"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/secret"
)

// customer is the private half of a header's customer key: a scalar of P-521,
// whose owner wipes it.
//
// Its public half is one multiplication of a point, as each secret shared with a
// host is. crypto/ecdh can't make a private key but through its tables of the
// curve's generator; those take as long as seven multiplications, and a header
// has one customer key.
type customer struct{ scalar secret.Bytes }

// customerKey derives the customer key from the header key and the header's
// digests: who has the header key, which is to say who could read everything
// that the slots protect, can give the image further slots without making the
// present ones anew. An image's digests are its own because its tweaks are, so
// no two images share a customer key.
//
// Candidates of 521 bits are tried in order until one is a P-521 scalar.
func customerKey(headerKey secret.Bytes, h *Header) (*customer, error) {
	salt := append(append(append([]byte(nil), h.PLD[:]...), h.ALD[:]...), h.TLD[:]...)
	prk, err := hkdf.Extract(sha512.New, headerKey, salt)
	if err != nil {
		return nil, fmt.Errorf("derive customer key: %w", err)
	}
	defer clear(prk)
	for try := range 256 {
		scalar, err := hkdf.Expand(sha512.New, prk, seedLabel+"customer key"+string([]byte{byte(try)}), scalarSize)
		if err != nil {
			return nil, fmt.Errorf("derive customer key: %w", err)
		}
		scalar[0] &= 1
		if isScalar(scalar) {
			return &customer{scalar}, nil
		}
		clear(scalar)
	}
	return nil, errors.New("derive customer key: no candidate is a scalar of P-521")
}

const scalarSize = 66 // bytes of a P-521 scalar

// isScalar tells whether a number is not zero and below the curve's order.
func isScalar(b []byte) bool {
	order := elliptic.P521().Params().N.FillBytes(make([]byte, scalarSize))
	return !bytes.Equal(b, make([]byte, scalarSize)) && bytes.Compare(b, order) < 0
}

// slots returns the public half and a key slot for each host, all made side by
// side: each takes about a millisecond.
func (c *customer) slots(hosts []*ecdh.PublicKey, headerKey secret.Bytes) (public [hostkey.PointSize]byte, slots []KeySlot, err error) {
	var g errgroup.Group
	g.Go(func() (err error) {
		public, err = c.public()
		return err
	})
	slots = make([]KeySlot, len(hosts))
	for i, host := range hosts {
		g.Go(func() (err error) {
			slots[i], err = wrapSlot(c, host, headerKey)
			return err
		})
	}
	err = g.Wait()
	return public, slots, err
}

// public returns the public half as SE headers hold it.
func (c *customer) public() (out [hostkey.PointSize]byte, err error) {
	p, err := nistec.NewP521Point().ScalarMult(nistec.NewP521Point().SetGenerator(), c.scalar)
	if err != nil {
		return out, fmt.Errorf("make customer public key: %w", err)
	}
	pub, err := ecdh.P521().NewPublicKey(p.Bytes())
	if err != nil {
		return out, fmt.Errorf("make customer public key: %w", err)
	}
	return hostkey.Coordinates(pub)
}

// shared returns the secret shared with a host, a point's X coordinate. The
// caller owns it.
func (c *customer) shared(host *ecdh.PublicKey) (secret.Bytes, error) {
	p, err := nistec.NewP521Point().SetBytes(host.Bytes())
	if err != nil {
		return nil, err
	}
	if _, err = p.ScalarMult(p, c.scalar); err != nil {
		return nil, err
	}
	return p.BytesX()
}
