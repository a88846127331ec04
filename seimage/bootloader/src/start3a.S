# Start of stage3a, at 0x11000: 64-bit mode and a stack, then C.
	.section .text.start,"ax"
	.globl	_start
_start:	lhi	%r1,1
	slr	%r0,%r0
	sigp	%r1,%r0,0x12
	sam64
	lghi	%r15,0x6f60		# 0x7000 less a register save area
	brasl	%r14,stage3a

# Where the image builder writes header and IPIB; must be the last bytes.
	.section .args,"aw"
	.globl	stage3a_args
	.balign	8
stage3a_args:
	.quad	0, 0, 0

	.section .note.GNU-stack,"",@progbits
