//go:build !purego

package xts

import "golang.org/x/sys/cpu"

// Function codes of CIPHER MESSAGE (z/Architecture Principles of Operation,
// SA22-7832, chapter 7).
const (
	kmAES256    = 20
	kmXTSAES256 = 52
	kmDecipher  = 0x80 // modifier bit
)

var fast = []kind{{"km", "KM-XTS-AES-256", hasXTS(), newKM}}

// km runs CIPHER MESSAGE to its end: n bytes, a multiple of 16.
//
//go:noescape
func km(function uint64, params, dst, src *byte, n int)

// kmQuery stores the bit for each function that CIPHER MESSAGE has, the
// leftmost bit for function 0. The processor must have the instruction.
//
//go:noescape
func kmQuery(functions *[16]byte)

func hasXTS() bool {
	if !cpu.S390X.HasAES { // KM with AES-256, so KM too
		return false
	}
	var functions [16]byte
	kmQuery(&functions)
	return functions[kmXTSAES256/8]&(0x80>>(kmXTSAES256%8)) != 0
}

// cipherMessage leaves all but the loop to the instruction, which expands the
// key itself: so what it keeps is the key.
type cipherMessage struct {
	key [KeySize]byte
}

func newKM(key []byte) engine {
	c := new(cipherMessage)
	copy(c.key[:], key)
	return c
}

func (c *cipherMessage) wipe() { clear(c.key[:]) }

func (c *cipherMessage) encrypt(dst, src []byte, tweak Tweak) { c.unit(kmXTSAES256, dst, src, tweak) }
func (c *cipherMessage) decrypt(dst, src []byte, tweak Tweak) {
	c.unit(kmXTSAES256|kmDecipher, dst, src, tweak)
}

// unit runs KM-XTS-AES-256. Its parameter block is the data key and the XTS
// parameter: the first block's tweak, encrypted with the tweak key, in the byte
// order that AES gives it. The instruction multiplies it on, block by block,
// also when it is interrupted.
func (c *cipherMessage) unit(function uint64, dst, src []byte, tweak Tweak) {
	var params [KeySize/2 + BlockSize]byte
	copy(params[:], c.key[:KeySize/2])
	km(kmAES256, &c.key[KeySize/2], &params[KeySize/2], &tweak[0], BlockSize)
	km(function, &params[0], &dst[0], &src[0], len(src))
	clear(params[:])
}
