//go:build !purego

#include "textflag.h"

// func km(function uint64, params, dst, src *byte, n int)
// R0 has the function code, R1 the address of the parameter block; dst is an
// even register, src the first of an even and odd pair, the second of which has
// the length. All three move on as blocks are done.
TEXT ·km(SB), NOSPLIT|NOFRAME, $0-40
	MOVD function+0(FP), R0
	MOVD params+8(FP), R1
	MOVD dst+16(FP), R2
	MOVD src+24(FP), R4
	MOVD n+32(FP), R5

again:
	KM  R2, R4
	BVS again // condition code 3: a part of it is done
	XOR R0, R0 // Go's zero register
	RET

// func kmQuery(functions *[16]byte)
TEXT ·kmQuery(SB), NOSPLIT|NOFRAME, $0-8
	MOVD $0, R0
	MOVD functions+0(FP), R1
	KM   R2, R4
	RET
