/*
 * stage3b: the first code in the secure guest. Ultravisor and image builder
 * have placed kernel, command line and initrd; this puts kernel and command
 * line where Linux wants them and starts it.
 */
#include "boot.h"

/* The s390 kernel's boot interface (arch/s390/include/asm/setup.h). */
#define KERNEL 0x10000UL
#define INITRD_ADDR 0x10408UL
#define INITRD_SIZE 0x10410UL
#define CMDLINE_LIMIT 0x10430UL /* 0 means 896 */
#define CMDLINE 0x10480UL

struct range {
	u64 addr;
	u64 size;
};

extern const volatile struct {
	struct range kernel, cmdline, initrd;
	struct psw psw;
} stage3b_args;

static void __attribute__((noreturn)) fail(const char *why)
{
	say("secexec: guest not started: ");
	say(why);
	say("\r\n");
	stop(WAIT_STAGE3B);
}

/* move copies upward in steps of 8; its destination lies below its source. */
static void move(u64 to, u64 from, u64 size)
{
	volatile u64 *d = (volatile u64 *)to;
	const volatile u64 *s = (const volatile u64 *)from;

	for (u64 i = 0; i < (size + 7) / 8; i++)
		d[i] = s[i];
}

void stage3b(void)
{
	struct range kernel = {stage3b_args.kernel.addr, stage3b_args.kernel.size};
	struct range cmdline = {stage3b_args.cmdline.addr, stage3b_args.cmdline.size};
	struct psw start = {stage3b_args.psw.mask, stage3b_args.psw.addr};
	u64 limit;

	if (kernel.size < KERNEL)
		fail("the kernel is too small to be one");
	if (kernel.addr + KERNEL <= KERNEL)
		fail("the kernel lies too low");
	/* A kernel's first 64 KiB are for other loaders. */
	move(KERNEL, kernel.addr + KERNEL, kernel.size - KERNEL);

	limit = *(volatile u64 *)CMDLINE_LIMIT;
	if (!limit)
		limit = 896;
	if (!cmdline.size || cmdline.size > limit)
		fail("the command line is longer than this kernel takes");
	if (((const volatile u8 *)cmdline.addr)[cmdline.size - 1])
		fail("the command line does not end with NUL");
	move(CMDLINE, cmdline.addr, cmdline.size);
	*(volatile u64 *)INITRD_ADDR = stage3b_args.initrd.size ? stage3b_args.initrd.addr : 0;
	*(volatile u64 *)INITRD_SIZE = stage3b_args.initrd.size;

	console_off();
	asm volatile("lpswe %0" : : "Q"(start) : "memory");
	__builtin_unreachable();
}
