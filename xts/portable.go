package xts

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"math/bits"
)

// portable works on every processor, with crypto/aes.
type portable struct {
	data, tweak cipher.Block
}

func newPortable(key []byte) engine {
	data, err := aes.NewCipher(key[:KeySize/2])
	if err != nil {
		panic(err) // of the length alone
	}
	tweak, err := aes.NewCipher(key[KeySize/2:])
	if err != nil {
		panic(err)
	}
	return &portable{data, tweak}
}

func (p *portable) wipe() { p.data, p.tweak = nil, nil }

func (p *portable) encrypt(dst, src []byte, tweak Tweak) { p.unit(dst, src, tweak, p.data.Encrypt) }
func (p *portable) decrypt(dst, src []byte, tweak Tweak) { p.unit(dst, src, tweak, p.data.Decrypt) }

// unit whitens some blocks at once with their tweaks, so that the loop over
// blocks holds nothing but the block cipher.
func (p *portable) unit(dst, src []byte, tweak Tweak, block func(dst, src []byte)) {
	p.tweak.Encrypt(tweak[:], tweak[:])
	var buf [512]byte
	for len(src) > 0 {
		n := min(len(src), len(buf))
		mask, out := buf[:n], dst[:n]
		masks(mask, &tweak)
		subtle.XORBytes(out, src[:n], mask)
		for b := out; len(b) >= BlockSize; b = b[BlockSize:] {
			block(b[:BlockSize:BlockSize], b[:BlockSize:BlockSize])
		}
		subtle.XORBytes(out, out, mask)
		dst, src = dst[n:], src[n:]
	}
}

// masks fills b with the encrypted tweak t times 1, x, x², … in GF(2^128) and
// leaves the next one in t. Byte order as in IEEE 1619 section 5.2:
// little-endian.
func masks(b []byte, t *Tweak) {
	lo := binary.LittleEndian.Uint64(t[:8])
	hi := binary.LittleEndian.Uint64(t[8:])
	for ; len(b) >= BlockSize; b = b[BlockSize:] {
		binary.LittleEndian.PutUint64(b, lo)
		binary.LittleEndian.PutUint64(b[8:], hi)
		var carry, out uint64
		lo, carry = bits.Add64(lo, lo, 0)
		hi, out = bits.Add64(hi, hi, carry)
		lo ^= 0x87 & -out
	}
	binary.LittleEndian.PutUint64(t[:8], lo)
	binary.LittleEndian.PutUint64(t[8:], hi)
}
