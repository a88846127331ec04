//go:build (amd64 || arm64) && !purego

package xts

import (
	"encoding/binary"
	"math/bits"
)

// roundKeys are AES-256's, in the order of their use.
type roundKeys [15][BlockSize]byte

// schedule has all round keys of an XTS key: for the data in both directions,
// for the tweak in the only one that it needs.
type schedule struct {
	enc, dec, tweak roundKeys
}

// subWord applies AES's S-box to each byte.
func subWord(w uint32) uint32

// invMixColumns is AES's InvMixColumns.
//
//go:noescape
func invMixColumns(dst, src *[BlockSize]byte)

// encryptTweak encrypts one block in place.
//
//go:noescape
func encryptTweak(keys *roundKeys, tweak *Tweak)

// expand makes all round keys of a 64-byte XTS key.
func (s *schedule) expand(key []byte) {
	s.enc.expand(key[:KeySize/2])
	s.tweak.expand(key[KeySize/2:])
	// FIPS 197, section 5.3.5: for the equivalent inverse cipher, which is what
	// the instructions do, all round keys but the outer ones are mixed.
	last := len(s.enc) - 1
	s.dec[0], s.dec[last] = s.enc[last], s.enc[0]
	for i := 1; i < last; i++ {
		invMixColumns(&s.dec[i], &s.enc[last-i])
	}
}

func (s *schedule) wipe() { *s = schedule{} }

// expand is FIPS 197's KEYEXPANSION, section 5.2, for 32 bytes of key. Words
// are little-endian here, so that RotWord turns right.
func (k *roundKeys) expand(key []byte) {
	word := func(i int) []byte { return k[i/4][i%4*4:] }
	le := binary.LittleEndian
	rcon := uint32(1)
	for i := range 8 {
		copy(word(i)[:4], key[4*i:])
	}
	for i := 8; i < 4*len(k); i++ {
		t := le.Uint32(word(i - 1))
		switch i % 8 {
		case 0:
			t = subWord(bits.RotateLeft32(t, -8)) ^ rcon
			rcon <<= 1 // seven of them: never beyond 8 bits
		case 4:
			t = subWord(t)
		}
		le.PutUint32(word(i), le.Uint32(word(i-8))^t)
	}
}
