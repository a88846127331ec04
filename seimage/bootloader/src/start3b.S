# Start of stage3b, wherever the image has it: move to 0x8000, out of the way of
# the kernel, which goes to 0x10000. Everything here is position independent.
	.section .text.start,"ax"
	.globl	_start
_start:	larl	%r2,_start
	larl	%r3,stage3b_end
	sgr	%r3,%r2			# length
	lghi	%r4,0x4000
	agr	%r4,%r4			# 0x8000
	lgr	%r6,%r4
0:	lg	%r5,0(%r2)
	stg	%r5,0(%r4)
	aghi	%r2,8
	aghi	%r4,8
	aghi	%r3,-8
	jp	0b
	larl	%r2,_start
	larl	%r3,moved
	sgr	%r3,%r2
	agr	%r3,%r6
	br	%r3
moved:	lgr	%r15,%r6
	aghi	%r15,0x7000-160		# stack below 0xf000
	brasl	%r14,stage3b

# What to start; written by the image builder; must be the last bytes.
	.section .args,"aw"
	.globl	stage3b_args
	.balign	8
stage3b_args:
	.quad	0, 0			# kernel: address, size
	.quad	0, 0			# command line
	.quad	0, 0			# initrd
	.quad	0, 0			# PSW
	.globl	stage3b_end
stage3b_end:

	.section .note.GNU-stack,"",@progbits
