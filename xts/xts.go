// Package xts is AES-XTS (IEEE Std 1619-2018) over whole data units with any
// 16-byte tweak.
//
// golang.org/x/crypto/xts takes a sector number of 64 bits, little-endian; SE
// images use 128-bit big-endian tweaks, so it can't express them. It serves as
// the oracle in tests for the tweaks that it can.
package xts

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// Sizes in bytes.
const (
	KeySize   = 64 // AES-256: data key, then tweak key
	BlockSize = aes.BlockSize
	MaxUnit   = 16 << 10 // the longest data unit that Encrypt and Decrypt take
)

// ErrKey says that a key is no AES-256-XTS key.
var ErrKey = errors.New("invalid AES-256-XTS key")

// Tweak is a data unit's tweak before its encryption with the tweak key.
type Tweak = [BlockSize]byte

// Cipher encrypts data units. It may be used by several goroutines at once.
type Cipher struct {
	data, tweak cipher.Block
}

// New makes a cipher from a 64-byte key. Equal halves are refused, as FIPS
// 140 asks (IG C.I).
func New(key []byte) (*Cipher, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("%w: %d bytes, wants %d", ErrKey, len(key), KeySize)
	}
	if subtle.ConstantTimeCompare(key[:32], key[32:]) == 1 {
		return nil, fmt.Errorf("%w: its halves are equal", ErrKey)
	}
	data, err := aes.NewCipher(key[:32])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	tweak, err := aes.NewCipher(key[32:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return &Cipher{data, tweak}, nil
}

// SectorTweak is the tweak of dm-crypt's plain64 IV: the number as 64 bits,
// little-endian, zero-padded.
func SectorTweak(n uint64) (t Tweak) {
	binary.LittleEndian.PutUint64(t[:], n)
	return t
}

// Encrypt encrypts one data unit. src is a multiple of 16 and at most MaxUnit
// bytes; dst has room for it and is src or does not overlap it. Other lengths
// are a mistake of the program and panic.
func (c *Cipher) Encrypt(dst, src []byte, tweak Tweak) { c.unit(dst, src, tweak, c.data.Encrypt) }

// Decrypt is the inverse of Encrypt.
func (c *Cipher) Decrypt(dst, src []byte, tweak Tweak) { c.unit(dst, src, tweak, c.data.Decrypt) }

// unit whitens the whole unit at once with the tweaks of its blocks, so that
// the per-block loop holds nothing but the block cipher.
func (c *Cipher) unit(dst, src []byte, tweak Tweak, block func(dst, src []byte)) {
	n := len(src)
	if n%BlockSize != 0 || n > MaxUnit || len(dst) < n {
		panic("xts: data unit of wrong length")
	}
	var buf [MaxUnit]byte
	mask := buf[:n]
	c.masks(mask, tweak)
	dst = dst[:n]
	subtle.XORBytes(dst, src, mask)
	for b := dst; len(b) >= BlockSize; b = b[BlockSize:] {
		block(b[:BlockSize:BlockSize], b[:BlockSize:BlockSize])
	}
	subtle.XORBytes(dst, dst, mask)
}

// masks fills b with the encrypted tweak times 1, x, x², … in GF(2^128), byte
// order as in IEEE 1619 section 5.2: little-endian.
func (c *Cipher) masks(b []byte, tweak Tweak) {
	c.tweak.Encrypt(tweak[:], tweak[:])
	lo := binary.LittleEndian.Uint64(tweak[:8])
	hi := binary.LittleEndian.Uint64(tweak[8:])
	for ; len(b) >= BlockSize; b = b[BlockSize:] {
		binary.LittleEndian.PutUint64(b, lo)
		binary.LittleEndian.PutUint64(b[8:], hi)
		var carry, out uint64
		lo, carry = bits.Add64(lo, lo, 0)
		hi, out = bits.Add64(hi, hi, carry)
		lo ^= 0x87 * out
	}
}
