package hostkey

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// Sizes in bytes.
const (
	coordinate     = 66 // a P-521 coordinate
	CoordinateSize = 80 // the same as SE headers hold it, left-padded with zeros
	PointSize      = 2 * CoordinateSize
	MaxSize        = 1 << 20 // what Parse reads of a file at most
)

// Errors about keys.
var (
	ErrCurve      = errors.New("not a key on NIST P-521")
	ErrPrivateKey = errors.New("not a P-521 private key in PEM")
)

// Coordinates returns a P-521 point as SE headers hold it: X, then Y, each
// big-endian and left-padded to 80 bytes ("customer public key" in the header).
func Coordinates(pub *ecdh.PublicKey) (out [PointSize]byte, err error) {
	if pub.Curve() != ecdh.P521() {
		return out, ErrCurve
	}
	point := pub.Bytes()[1:] // after the 4 of an uncompressed point: X, Y
	copy(out[CoordinateSize-coordinate:], point[:coordinate])
	copy(out[PointSize-coordinate:], point[coordinate:])
	return out, nil
}

// Point is the inverse of Coordinates. It refuses padding that is not zero and
// points that are not on the curve.
func Point(b [PointSize]byte) (*ecdh.PublicKey, error) {
	const pad = CoordinateSize - coordinate
	for i := range pad {
		if b[i] != 0 || b[CoordinateSize+i] != 0 {
			return nil, fmt.Errorf("parse point: padding is not zero: %w", ErrCurve)
		}
	}
	point := append([]byte{4}, b[pad:CoordinateSize]...)
	point = append(point, b[CoordinateSize+pad:]...)
	pub, err := ecdh.P521().NewPublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("parse point: %w: %w", ErrCurve, err)
	}
	return pub, nil
}

// Hash returns a host key's name in key slots and in /sys/firmware/uv/keys:
// SHA-256 over its Coordinates.
func Hash(pub *ecdh.PublicKey) ([32]byte, error) {
	c, err := Coordinates(pub)
	return sha256.Sum256(c[:]), err
}

// ParsePrivate parses a host's private key, PEM in SEC 1 ("EC PRIVATE KEY") or
// PKCS #8. Only an emulated host's private key can be had: a real one never
// leaves its machine.
func ParsePrivate(text []byte) (*ecdh.PrivateKey, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("parse host private key: %d bytes: %w", len(text), ErrPrivateKey)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("parse host private key: %w", ErrPrivateKey)
	}
	defer clear(block.Bytes)
	var key *ecdsa.PrivateKey
	if ec, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		key = ec
	} else if any8, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		key, _ = any8.(*ecdsa.PrivateKey)
	}
	if key == nil || key.Curve != elliptic.P521() {
		return nil, fmt.Errorf("parse host private key: %w", ErrPrivateKey)
	}
	priv, err := key.ECDH()
	if err != nil {
		return nil, fmt.Errorf("parse host private key: %w: %w", ErrPrivateKey, err)
	}
	return priv, nil
}
