/*
 * What both stages share: the machine's instructions as functions, messages
 * on the SCLP console, and the ends of the world.
 */
#ifndef SECEXEC_BOOT_H
#define SECEXEC_BOOT_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

/* Disabled-wait addresses: what an operator sees when a guest stops early. */
enum {
	WAIT_STAGE3B = 0x4511,   /* stage3b found an image that it can't start */
	WAIT_NO_UNPACK = 0x4607, /* no unpack facility */
	WAIT_REFUSED = 0x4608,   /* the ultravisor refused the image */
};

struct psw {
	u64 mask;
	u64 addr;
};

/* console.c: both are slow and used on the way to stop() only. */
void say(const char *text);
void say_hex(const char *name, u32 value);
void console_off(void);

/* stop ends the CPU in a disabled wait that shows the code as its address. */
static inline void __attribute__((noreturn)) stop(u64 code)
{
	struct psw wait = {0x0002000080000000UL, code};

	asm volatile("lpswe %0" : : "Q"(wait) : "memory");
	__builtin_unreachable();
}

#endif
