//go:build !purego

#include "textflag.h"

// func subWord(w uint32) uint32
// With the same word in all four columns ShiftRows changes nothing, so the last
// round with a zero key is SubBytes alone.
TEXT ·subWord(SB), NOSPLIT, $0-12
	MOVL   w+0(FP), AX
	MOVQ   AX, X0
	PSHUFD $0, X0, X0
	PXOR   X1, X1
	AESENCLAST X1, X0
	MOVQ   X0, AX
	MOVL   AX, ret+8(FP)
	RET

// func invMixColumns(dst, src *[16]byte)
TEXT ·invMixColumns(SB), NOSPLIT, $0-16
	MOVQ  dst+0(FP), DI
	MOVQ  src+8(FP), SI
	MOVOU (SI), X0
	AESIMC X0, X0
	MOVOU X0, (DI)
	RET

#define ROUND1(op, i, x) \
	MOVOU (i*16)(AX), X12 \
	op    X12, x

#define ROUNDS1(op, last, x) \
	MOVOU (AX), X12 \
	PXOR  X12, x \
	ROUND1(op, 1, x) \
	ROUND1(op, 2, x) \
	ROUND1(op, 3, x) \
	ROUND1(op, 4, x) \
	ROUND1(op, 5, x) \
	ROUND1(op, 6, x) \
	ROUND1(op, 7, x) \
	ROUND1(op, 8, x) \
	ROUND1(op, 9, x) \
	ROUND1(op, 10, x) \
	ROUND1(op, 11, x) \
	ROUND1(op, 12, x) \
	ROUND1(op, 13, x) \
	ROUND1(last, 14, x)

// func encryptTweak(keys *roundKeys, tweak *Tweak)
TEXT ·encryptTweak(SB), NOSPLIT, $0-16
	MOVQ  keys+0(FP), AX
	MOVQ  tweak+8(FP), BX
	MOVOU (BX), X0
	ROUNDS1(AESENC, AESENCLAST, X0)
	MOVOU X0, (BX)
	RET

// Registers of the loops: AX round keys, DI dst, SI src, CX bytes left, BX
// tweak; X0 to X5 blocks, X6 to X11 their tweaks, X12 round key, X13 scratch,
// X14 what the carries add: 0x87 to the low half, 1 to the high one; X15 the
// next tweak.
#define START \
	MOVOU (BX), X15 \
	MOVQ $0x87, DX \
	MOVQ DX, X14 \
	MOVQ $1, DX \
	MOVQ DX, X13 \
	PUNPCKLQDQ X13, X14

// NEXT puts the tweak into t and multiplies it by x: doubles both halves and
// spreads the carries. The shuffle moves each half's sign to where its carry
// goes.
#define NEXT(t) \
	MOVO   X15, t \
	PSHUFD $0x13, X15, X13 \
	PSRAL  $31, X13 \
	PAND   X14, X13 \
	PADDQ  X15, X15 \
	PXOR   X13, X15

#define LOAD(i, x, t) \
	MOVOU (i*16)(SI), x \
	PXOR  t, x \
	PXOR  X12, x

#define STORE(i, x, t) \
	PXOR  t, x \
	MOVOU x, (i*16)(DI)

#define ROUND6(op, i) \
	MOVOU (i*16)(AX), X12 \
	op X12, X0 \
	op X12, X1 \
	op X12, X2 \
	op X12, X3 \
	op X12, X4 \
	op X12, X5

#define SIX(op, last) \
	NEXT(X6) \
	NEXT(X7) \
	NEXT(X8) \
	NEXT(X9) \
	NEXT(X10) \
	NEXT(X11) \
	MOVOU (AX), X12 \
	LOAD(0, X0, X6) \
	LOAD(1, X1, X7) \
	LOAD(2, X2, X8) \
	LOAD(3, X3, X9) \
	LOAD(4, X4, X10) \
	LOAD(5, X5, X11) \
	ROUND6(op, 1) \
	ROUND6(op, 2) \
	ROUND6(op, 3) \
	ROUND6(op, 4) \
	ROUND6(op, 5) \
	ROUND6(op, 6) \
	ROUND6(op, 7) \
	ROUND6(op, 8) \
	ROUND6(op, 9) \
	ROUND6(op, 10) \
	ROUND6(op, 11) \
	ROUND6(op, 12) \
	ROUND6(op, 13) \
	ROUND6(last, 14) \
	STORE(0, X0, X6) \
	STORE(1, X1, X7) \
	STORE(2, X2, X8) \
	STORE(3, X3, X9) \
	STORE(4, X4, X10) \
	STORE(5, X5, X11) \
	ADDQ $96, SI \
	ADDQ $96, DI \
	SUBQ $96, CX

#define ONE(op, last) \
	NEXT(X6) \
	MOVOU (SI), X0 \
	PXOR  X6, X0 \
	ROUNDS1(op, last, X0) \
	STORE(0, X0, X6) \
	ADDQ  $16, SI \
	ADDQ  $16, DI \
	SUBQ  $16, CX

// func encryptAESNI(keys *roundKeys, dst, src *byte, n int, tweak *Tweak)
TEXT ·encryptAESNI(SB), NOSPLIT, $0-40
	MOVQ keys+0(FP), AX
	MOVQ dst+8(FP), DI
	MOVQ src+16(FP), SI
	MOVQ n+24(FP), CX
	MOVQ tweak+32(FP), BX
	START

six:
	CMPQ CX, $96
	JB   one
	SIX(AESENC, AESENCLAST)
	JMP  six

one:
	CMPQ CX, $16
	JB   done
	ONE(AESENC, AESENCLAST)
	JMP  one

done:
	MOVOU X15, (BX)
	RET

// func decryptAESNI(keys *roundKeys, dst, src *byte, n int, tweak *Tweak)
TEXT ·decryptAESNI(SB), NOSPLIT, $0-40
	MOVQ keys+0(FP), AX
	MOVQ dst+8(FP), DI
	MOVQ src+16(FP), SI
	MOVQ n+24(FP), CX
	MOVQ tweak+32(FP), BX
	START

six:
	CMPQ CX, $96
	JB   one
	SIX(AESDEC, AESDECLAST)
	JMP  six

one:
	CMPQ CX, $16
	JB   done
	ONE(AESDEC, AESDECLAST)
	JMP  one

done:
	MOVOU X15, (BX)
	RET
