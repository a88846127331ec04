# Entry at 0x10000 for zipl's loader, which starts images there.
	.globl	_start
_start:	lhi	%r1,1			# z/Architecture
	slr	%r0,%r0			# this CPU
	sigp	%r1,%r0,0x12		# set architecture; refused where it is set: no matter
	sam64
	lgfi	%r1,0x11000		# stage3a
	br	%r1

	.section .note.GNU-stack,"",@progbits
