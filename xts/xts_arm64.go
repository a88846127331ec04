//go:build !purego

package xts

import "golang.org/x/sys/cpu"

var fast = []kind{{"aese", "the AES instructions", cpu.ARM64.HasAES, newAESE}}

// The functions in assembly take n bytes, at least a block; tweak is the first
// block's, encrypted.

//go:noescape
func encryptAESE(keys *roundKeys, dst, src *byte, n int, tweak *Tweak)

//go:noescape
func decryptAESD(keys *roundKeys, dst, src *byte, n int, tweak *Tweak)

// aese works on 8 blocks at a time.
type aese struct{ schedule }

func newAESE(key []byte) engine {
	a := new(aese)
	a.expand(key)
	return a
}

func (a *aese) encrypt(dst, src []byte, tweak Tweak) {
	encryptTweak(&a.tweak, &tweak)
	encryptAESE(&a.enc, &dst[0], &src[0], len(src), &tweak)
}

func (a *aese) decrypt(dst, src []byte, tweak Tweak) {
	encryptTweak(&a.tweak, &tweak)
	decryptAESD(&a.dec, &dst[0], &src[0], len(src), &tweak)
}
