// Package xts is AES-256-XTS (IEEE Std 1619-2018) over data units of whole
// blocks, with any 16-byte tweak.
//
// golang.org/x/crypto/xts takes a sector number of 64 bits, little-endian; SE
// images use 128-bit big-endian tweaks, so it can't express them. It also goes
// block by block. Here the processor's AES instructions work on several blocks
// at once; the best of what it has is chosen at start:
//
//	amd64   VAES over 512-bit registers, or AES-NI
//	arm64   AESE and AESD
//	s390x   CIPHER MESSAGE with KM-XTS-AES-256
//	others, and with the build tag purego: crypto/aes, a block at a time
//
// None of them branches on or looks up memory by a secret. Ciphertext stealing
// (data units that are no multiple of 16 bytes) is left out: neither SE images
// nor dm-crypt know such units.
package xts

import (
	"crypto/aes"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"
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

// Decrypter decrypts data units. Several goroutines may use it at once.
type Decrypter struct {
	engine engine // nil: wiped
}

// Cipher encrypts and decrypts data units. Several goroutines may use it at
// once.
type Cipher struct {
	Decrypter
}

// New makes a cipher from a 64-byte key, of which it keeps no reference. Equal
// halves are refused, as FIPS 140 asks (IG C.I): they open the mode to attacks by
// chosen ciphertext.
func New(key []byte) (*Cipher, error) {
	d, err := NewDecrypter(key)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(key[:KeySize/2], key[KeySize/2:]) == 1 {
		d.Wipe()
		return nil, fmt.Errorf("%w: its halves are equal", ErrKey)
	}
	return &Cipher{*d}, nil
}

// NewDecrypter is New for what others encrypted: it takes equal halves, since
// neither the instruction on Z nor dm-crypt refuses them, and refusing to read
// what exists protects nobody. (OpenSSL draws the same line.)
func NewDecrypter(key []byte) (*Decrypter, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("%w: %d bytes, wants %d", ErrKey, len(key), KeySize)
	}
	for _, k := range fast {
		if k.usable {
			return &Decrypter{k.make(key)}, nil
		}
	}
	return &Decrypter{newPortable(key)}, nil
}

// Wipe overwrites the round keys, where there is assembly for the processor;
// those of crypto/aes are out of reach and only let go. No other call may be
// under way; later ones panic.
func (d *Decrypter) Wipe() {
	if d.engine != nil {
		d.engine.wipe()
		d.engine = nil
	}
}

// SectorTweak is the tweak of dm-crypt's plain64 IV: the number as 64 bits,
// little-endian, zero-padded.
func SectorTweak(n uint64) (t Tweak) {
	binary.LittleEndian.PutUint64(t[:], n)
	return t
}

// Encrypt encrypts one data unit. src is a multiple of 16 and at most MaxUnit
// bytes; dst has room for it and is src or does not overlap it. All else is a
// mistake of the program and panics.
func (c *Cipher) Encrypt(dst, src []byte, tweak Tweak) {
	if check(dst, src); len(src) != 0 {
		c.engine.encrypt(dst[:len(src)], src, tweak)
	}
}

// Decrypt is the inverse of Cipher.Encrypt.
func (d *Decrypter) Decrypt(dst, src []byte, tweak Tweak) {
	if check(dst, src); len(src) != 0 {
		d.engine.decrypt(dst[:len(src)], src, tweak)
	}
}

func check(dst, src []byte) {
	n := len(src)
	if n%BlockSize != 0 || n > MaxUnit || len(dst) < n {
		panic("xts: data unit of wrong length")
	}
	if n == 0 {
		return
	}
	// As addresses: neither slice moves while both are in use here.
	d, s := uintptr(unsafe.Pointer(&dst[0])), uintptr(unsafe.Pointer(&src[0]))
	if d != s && d < s+uintptr(n) && s < d+uintptr(n) {
		panic("xts: buffers overlap")
	}
}

// engine is one way to do the work. Lengths are checked: dst is as long as src,
// and that is at least a block.
type engine interface {
	encrypt(dst, src []byte, tweak Tweak)
	decrypt(dst, src []byte, tweak Tweak)
	wipe()
}

// kind is an engine in assembly. Each architecture lists its own in fast, the
// best first.
type kind struct {
	name   string
	needs  string // instructions, as words for people
	usable bool   // the processor has them
	make   func(key []byte) engine
}
