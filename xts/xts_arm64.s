//go:build !purego

#include "textflag.h"

// func subWord(w uint32) uint32
// With the same word in all four columns ShiftRows changes nothing, so AESE
// with a zero key is SubBytes alone.
TEXT ·subWord(SB), NOSPLIT, $0-12
	MOVWU w+0(FP), R0
	VDUP  R0, V0.S4
	VEOR  V1.B16, V1.B16, V1.B16
	AESE  V1.B16, V0.B16
	VMOV  V0.S[0], R0
	MOVW  R0, ret+8(FP)
	RET

// func invMixColumns(dst, src *[16]byte)
TEXT ·invMixColumns(SB), NOSPLIT, $0-16
	MOVD   dst+0(FP), R1
	MOVD   src+8(FP), R2
	VLD1   (R2), [V0.B16]
	AESIMC V0.B16, V0.B16
	VST1   [V0.B16], (R1)
	RET

// Registers of the loops: R0 round keys, then V16 to V30 have them; R1 dst, R2
// src, R3 bytes left; V0 to V7 blocks, V8 to V15 their tweaks; R5 and R6 the
// next tweak, low and high half, R7 the reduction polynomial, R8 scratch.
#define KEYS \
	VLD1.P 64(R0), [V16.B16, V17.B16, V18.B16, V19.B16] \
	VLD1.P 64(R0), [V20.B16, V21.B16, V22.B16, V23.B16] \
	VLD1.P 64(R0), [V24.B16, V25.B16, V26.B16, V27.B16] \
	VLD1   (R0), [V28.B16, V29.B16, V30.B16]

#define START \
	LDP  (R4), (R5, R6) \
	MOVD $0x87, R7 \
	KEYS

// NEXT puts the tweak into t and multiplies it by x.
#define NEXT(t) \
	VMOV R5, t.D[0] \
	VMOV R6, t.D[1] \
	AND  R6->63, R7, R8 \
	EXTR $63, R5, R6, R6 \
	EOR  R5<<1, R8, R5

#define STEP(op, mix, k, x) \
	op  k.B16, x.B16 \
	mix x.B16, x.B16

#define STEPS(op, mix, k) \
	STEP(op, mix, k, V0) \
	STEP(op, mix, k, V1) \
	STEP(op, mix, k, V2) \
	STEP(op, mix, k, V3) \
	STEP(op, mix, k, V4) \
	STEP(op, mix, k, V5) \
	STEP(op, mix, k, V6) \
	STEP(op, mix, k, V7)

#define WHITEN(x, t) \
	VEOR t.B16, x.B16, x.B16

#define LAST(op, x, t) \
	op   V29.B16, x.B16 \
	VEOR V30.B16, x.B16, x.B16 \
	VEOR t.B16, x.B16, x.B16

#define EIGHT(op, mix) \
	NEXT(V8) \
	NEXT(V9) \
	NEXT(V10) \
	NEXT(V11) \
	NEXT(V12) \
	NEXT(V13) \
	NEXT(V14) \
	NEXT(V15) \
	VLD1.P 64(R2), [V0.B16, V1.B16, V2.B16, V3.B16] \
	VLD1.P 64(R2), [V4.B16, V5.B16, V6.B16, V7.B16] \
	WHITEN(V0, V8) \
	WHITEN(V1, V9) \
	WHITEN(V2, V10) \
	WHITEN(V3, V11) \
	WHITEN(V4, V12) \
	WHITEN(V5, V13) \
	WHITEN(V6, V14) \
	WHITEN(V7, V15) \
	STEPS(op, mix, V16) \
	STEPS(op, mix, V17) \
	STEPS(op, mix, V18) \
	STEPS(op, mix, V19) \
	STEPS(op, mix, V20) \
	STEPS(op, mix, V21) \
	STEPS(op, mix, V22) \
	STEPS(op, mix, V23) \
	STEPS(op, mix, V24) \
	STEPS(op, mix, V25) \
	STEPS(op, mix, V26) \
	STEPS(op, mix, V27) \
	STEPS(op, mix, V28) \
	LAST(op, V0, V8) \
	LAST(op, V1, V9) \
	LAST(op, V2, V10) \
	LAST(op, V3, V11) \
	LAST(op, V4, V12) \
	LAST(op, V5, V13) \
	LAST(op, V6, V14) \
	LAST(op, V7, V15) \
	VST1.P [V0.B16, V1.B16, V2.B16, V3.B16], 64(R1) \
	VST1.P [V4.B16, V5.B16, V6.B16, V7.B16], 64(R1) \
	SUB    $128, R3

// ALL is one block, x, through all rounds; t is added at the end.
#define ALL(op, mix, x, t) \
	STEP(op, mix, V16, x) \
	STEP(op, mix, V17, x) \
	STEP(op, mix, V18, x) \
	STEP(op, mix, V19, x) \
	STEP(op, mix, V20, x) \
	STEP(op, mix, V21, x) \
	STEP(op, mix, V22, x) \
	STEP(op, mix, V23, x) \
	STEP(op, mix, V24, x) \
	STEP(op, mix, V25, x) \
	STEP(op, mix, V26, x) \
	STEP(op, mix, V27, x) \
	STEP(op, mix, V28, x) \
	LAST(op, x, t)

#define ONE(op, mix) \
	NEXT(V8) \
	VLD1.P 16(R2), [V0.B16] \
	WHITEN(V0, V8) \
	ALL(op, mix, V0, V8) \
	VST1.P [V0.B16], 16(R1) \
	SUB    $16, R3

// func encryptTweak(keys *roundKeys, tweak *Tweak)
TEXT ·encryptTweak(SB), NOSPLIT, $0-16
	MOVD keys+0(FP), R0
	MOVD tweak+8(FP), R4
	KEYS
	VLD1 (R4), [V0.B16]
	VEOR V8.B16, V8.B16, V8.B16
	ALL(AESE, AESMC, V0, V8)
	VST1 [V0.B16], (R4)
	RET

// func encryptAESE(keys *roundKeys, dst, src *byte, n int, tweak *Tweak)
TEXT ·encryptAESE(SB), NOSPLIT, $0-40
	MOVD keys+0(FP), R0
	MOVD dst+8(FP), R1
	MOVD src+16(FP), R2
	MOVD n+24(FP), R3
	MOVD tweak+32(FP), R4
	START

eight:
	CMP $128, R3
	BLT one
	EIGHT(AESE, AESMC)
	B   eight

one:
	CBZ R3, done
	ONE(AESE, AESMC)
	B   one

done:
	RET

// func decryptAESD(keys *roundKeys, dst, src *byte, n int, tweak *Tweak)
TEXT ·decryptAESD(SB), NOSPLIT, $0-40
	MOVD keys+0(FP), R0
	MOVD dst+8(FP), R1
	MOVD src+16(FP), R2
	MOVD n+24(FP), R3
	MOVD tweak+32(FP), R4
	START

eight:
	CMP $128, R3
	BLT one
	EIGHT(AESD, AESIMC)
	B   eight

one:
	CBZ R3, done
	ONE(AESD, AESIMC)
	B   one

done:
	RET
