//go:build !purego

#include "textflag.h"

// Registers: AX round keys, DI dst, SI src, CX bytes left, BX tweak; Z0 to Z7
// 32 blocks, and scratch between them; Z8 to Z15 their tweaks; Z16 the
// reduction polynomial in each half of each lane; Z17 to Z31 the round keys,
// each in all four lanes.

// DOUBLE makes d the tweak s times x; as NEXT in aesni_amd64.s. X6 is what the
// carries add, X5 scratch.
#define DOUBLE(s, d) \
	VPSHUFD $0x13, s, X5 \
	VPSRAD  $31, X5, X5 \
	VPAND   X6, X5, X5 \
	VPADDQ  s, s, d \
	VPXOR   X5, d, d

// MUL makes d the tweaks s times x^(8*up), where down is 16-up: a shift of each
// lane by up bytes, and those that fall out, times the polynomial. t is scratch.
#define MUL(up, down, s, d, t) \
	VPSRLDQ    $down, s, t \
	VPCLMULQDQ $0, Z16, t, t \
	VPSLLDQ    $up, s, d \
	VPXORQ     t, d, d

// START loads the round keys and makes the first 32 tweaks: four of them in Z8
// by doubling, those times x^4 in Z9, for which it has to shift by bits, and the
// others from these two.
#define START \
	VBROADCASTI32X4 (AX), Z17 \
	VBROADCASTI32X4 16(AX), Z18 \
	VBROADCASTI32X4 32(AX), Z19 \
	VBROADCASTI32X4 48(AX), Z20 \
	VBROADCASTI32X4 64(AX), Z21 \
	VBROADCASTI32X4 80(AX), Z22 \
	VBROADCASTI32X4 96(AX), Z23 \
	VBROADCASTI32X4 112(AX), Z24 \
	VBROADCASTI32X4 128(AX), Z25 \
	VBROADCASTI32X4 144(AX), Z26 \
	VBROADCASTI32X4 160(AX), Z27 \
	VBROADCASTI32X4 176(AX), Z28 \
	VBROADCASTI32X4 192(AX), Z29 \
	VBROADCASTI32X4 208(AX), Z30 \
	VBROADCASTI32X4 224(AX), Z31 \
	MOVQ $0x87, DX \
	VPBROADCASTQ DX, Z16 \
	VMOVQ DX, X6 \
	MOVQ $1, DX \
	VMOVQ DX, X5 \
	VPUNPCKLQDQ X5, X6, X6 \
	VMOVDQU (BX), X0 \
	DOUBLE(X0, X1) \
	DOUBLE(X1, X2) \
	DOUBLE(X2, X3) \
	VINSERTI32X4 $1, X1, Z0, Z0 \
	VINSERTI32X4 $2, X2, Z0, Z0 \
	VINSERTI32X4 $3, X3, Z0, Z8 \
	VPSRLQ     $60, Z8, Z0 \
	VPCLMULQDQ $0x01, Z16, Z0, Z1 \
	VPSLLDQ    $8, Z0, Z0 \
	VPSLLQ     $4, Z8, Z9 \
	VPXORQ     Z0, Z9, Z9 \
	VPXORQ     Z1, Z9, Z9 \
	MUL(1, 15, Z8, Z10, Z0) \
	MUL(1, 15, Z9, Z11, Z1) \
	MUL(2, 14, Z8, Z12, Z2) \
	MUL(2, 14, Z9, Z13, Z3) \
	MUL(2, 14, Z10, Z14, Z4) \
	MUL(2, 14, Z11, Z15, Z5)

#define LOAD(i, x, t) \
	VPXORQ (i*64)(SI), t, x \
	VPXORQ Z17, x, x

#define STORE(i, x, t) \
	VPXORQ    t, x, x \
	VMOVDQU64 x, (i*64)(DI)

#define ROUND(op, k) \
	op k, Z0, Z0 \
	op k, Z1, Z1 \
	op k, Z2, Z2 \
	op k, Z3, Z3 \
	op k, Z4, Z4 \
	op k, Z5, Z5 \
	op k, Z6, Z6 \
	op k, Z7, Z7

#define WIDE(op, last) \
	LOAD(0, Z0, Z8) \
	LOAD(1, Z1, Z9) \
	LOAD(2, Z2, Z10) \
	LOAD(3, Z3, Z11) \
	LOAD(4, Z4, Z12) \
	LOAD(5, Z5, Z13) \
	LOAD(6, Z6, Z14) \
	LOAD(7, Z7, Z15) \
	ROUND(op, Z18) \
	ROUND(op, Z19) \
	ROUND(op, Z20) \
	ROUND(op, Z21) \
	ROUND(op, Z22) \
	ROUND(op, Z23) \
	ROUND(op, Z24) \
	ROUND(op, Z25) \
	ROUND(op, Z26) \
	ROUND(op, Z27) \
	ROUND(op, Z28) \
	ROUND(op, Z29) \
	ROUND(op, Z30) \
	ROUND(last, Z31) \
	STORE(0, Z0, Z8) \
	STORE(1, Z1, Z9) \
	STORE(2, Z2, Z10) \
	STORE(3, Z3, Z11) \
	STORE(4, Z4, Z12) \
	STORE(5, Z5, Z13) \
	STORE(6, Z6, Z14) \
	STORE(7, Z7, Z15) \
	MUL(4, 12, Z8, Z8, Z0) \
	MUL(4, 12, Z9, Z9, Z1) \
	MUL(4, 12, Z10, Z10, Z2) \
	MUL(4, 12, Z11, Z11, Z3) \
	MUL(4, 12, Z12, Z12, Z4) \
	MUL(4, 12, Z13, Z13, Z5) \
	MUL(4, 12, Z14, Z14, Z6) \
	MUL(4, 12, Z15, Z15, Z7) \
	ADDQ $512, SI \
	ADDQ $512, DI \
	SUBQ $512, CX

// func encryptVAES(keys *roundKeys, dst, src *byte, n int, tweak *Tweak)
TEXT ·encryptVAES(SB), NOSPLIT, $0-40
	MOVQ keys+0(FP), AX
	MOVQ dst+8(FP), DI
	MOVQ src+16(FP), SI
	MOVQ n+24(FP), CX
	MOVQ tweak+32(FP), BX
	START

wide:
	WIDE(VAESENC, VAESENCLAST)
	JNZ  wide
	VMOVDQU X8, (BX)
	VZEROUPPER
	RET

// func decryptVAES(keys *roundKeys, dst, src *byte, n int, tweak *Tweak)
TEXT ·decryptVAES(SB), NOSPLIT, $0-40
	MOVQ keys+0(FP), AX
	MOVQ dst+8(FP), DI
	MOVQ src+16(FP), SI
	MOVQ n+24(FP), CX
	MOVQ tweak+32(FP), BX
	START

wide:
	WIDE(VAESDEC, VAESDECLAST)
	JNZ  wide
	VMOVDQU X8, (BX)
	VZEROUPPER
	RET
