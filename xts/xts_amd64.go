//go:build !purego

package xts

import "golang.org/x/sys/cpu"

var fast = []kind{
	{"vaes512", "VAES, VPCLMULQDQ, AVX-512F and AVX-512BW", hasVAES, newVAES},
	{"aesni", "AES-NI", cpu.X86.HasAES && cpu.X86.HasSSE2, newAESNI},
}

var hasVAES = cpu.X86.HasAES && cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW &&
	cpu.X86.HasAVX512VAES && cpu.X86.HasAVX512VPCLMULQDQ

// The functions in assembly take n bytes, at least a block, and leave the tweak
// of the next block in tweak, where its encrypted first one was.

//go:noescape
func encryptAESNI(keys *roundKeys, dst, src *byte, n int, tweak *Tweak)

//go:noescape
func decryptAESNI(keys *roundKeys, dst, src *byte, n int, tweak *Tweak)

// n is a multiple of wide.
//
//go:noescape
func encryptVAES(keys *roundKeys, dst, src *byte, n int, tweak *Tweak)

//go:noescape
func decryptVAES(keys *roundKeys, dst, src *byte, n int, tweak *Tweak)

// wide is what encryptVAES has in registers at a time, in bytes.
const wide = 512

// aesni works on 6 blocks at a time.
type aesni struct{ schedule }

func newAESNI(key []byte) engine {
	a := new(aesni)
	a.expand(key)
	return a
}

func (a *aesni) encrypt(dst, src []byte, tweak Tweak) {
	encryptTweak(&a.tweak, &tweak)
	encryptAESNI(&a.enc, &dst[0], &src[0], len(src), &tweak)
}

func (a *aesni) decrypt(dst, src []byte, tweak Tweak) {
	encryptTweak(&a.tweak, &tweak)
	decryptAESNI(&a.dec, &dst[0], &src[0], len(src), &tweak)
}

// vaes works on 32 blocks at a time and leaves the rest of a unit to AES-NI.
type vaes struct{ schedule }

func newVAES(key []byte) engine {
	v := new(vaes)
	v.expand(key)
	return v
}

func (v *vaes) encrypt(dst, src []byte, tweak Tweak) {
	encryptTweak(&v.tweak, &tweak)
	n := len(src) &^ (wide - 1)
	if n > 0 {
		encryptVAES(&v.enc, &dst[0], &src[0], n, &tweak)
	}
	if n < len(src) {
		encryptAESNI(&v.enc, &dst[n], &src[n], len(src)-n, &tweak)
	}
}

func (v *vaes) decrypt(dst, src []byte, tweak Tweak) {
	encryptTweak(&v.tweak, &tweak)
	n := len(src) &^ (wide - 1)
	if n > 0 {
		decryptVAES(&v.dec, &dst[0], &src[0], n, &tweak)
	}
	if n < len(src) {
		decryptAESNI(&v.dec, &dst[n], &src[n], len(src)-n, &tweak)
	}
}
