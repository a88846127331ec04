/*
 * Messages on the SCLP's ASCII console (VT220, event type 0x1a), which is what
 * QEMU's device sclpconsole offers. Without such a console nothing is shown and
 * the disabled-wait code must do.
 */
#include "boot.h"

#define SCCB 0x7000UL /* one page, below 2 GiB, in no stage's way */
#define EXT_NEW_PSW 0x1b0UL

enum {
	WRITE_EVENT_MASK = 0x00780005,
	WRITE_EVENT_DATA = 0x00760005,
	VT220_EVENT = 0x1a,
	VT220_MASK = 1 << (32 - VT220_EVENT),
};

struct sccb {
	u16 length;
	u8 function;
	u8 control[3];
	u16 response;
	union {
		struct {
			u16 reserved;
			u16 mask_length;
			u32 receive, send;           /* ours */
			u32 sclp_receive, sclp_send; /* the machine's */
		} mask;
		struct {
			u16 length;
			u8 type;
			u8 flags;
			u16 reserved;
			u8 text[256];
		} event;
	};
} __attribute__((packed));

/* prepare clears the block and gives it its length. */
static volatile struct sccb *prepare(u16 length)
{
	volatile u8 *page = (volatile u8 *)SCCB;

	for (u32 i = 0; i < sizeof(struct sccb); i++)
		page[i] = 0;
	((volatile struct sccb *)SCCB)->length = length;
	return (volatile struct sccb *)SCCB;
}

/*
 * service issues one SCLP command and waits for its end, which the machine
 * tells by a service-signal external interruption.
 */
static void service(u32 command)
{
	static const struct psw wait = {0x0102000180000000UL, 0}; /* enabled for external */
	volatile struct psw *new_psw = (volatile struct psw *)EXT_NEW_PSW;
	u64 before, enabled, scratch;
	u32 cc;

	asm volatile(
		"	stctg	%%c0,%%c0,%[before]\n"
		"	lg	%[scratch],%[before]\n"
		"	oill	%[scratch],0x0200\n" /* service-signal subclass */
		"	stg	%[scratch],%[enabled]\n"
		"	lctlg	%%c0,%%c0,%[enabled]\n"
		"	llihl	%[scratch],1\n" /* mask: 64-bit addressing, all else off */
		"	oilh	%[scratch],0x8000\n"
		"	stg	%[scratch],0(%[newpsw])\n"
		"	larl	%[scratch],0f\n"
		"	stg	%[scratch],8(%[newpsw])\n"
		"	.insn	rre,0xb2200000,%[command],%[sccb]\n"
		"	ipm	%[cc]\n"
		"	srl	%[cc],28\n"
		"	ltr	%[cc],%[cc]\n"
		"	jnz	0f\n"
		"	lpswe	%[wait]\n"
		"0:	lctlg	%%c0,%%c0,%[before]\n"
		: [before] "=Q"(before), [enabled] "=Q"(enabled), [scratch] "=&a"(scratch), [cc] "=&d"(cc)
		: [newpsw] "a"(new_psw), [command] "d"(command), [sccb] "a"(SCCB), [wait] "Q"(wait)
		: "cc", "memory");
}

static void set_mask(u32 send)
{
	volatile struct sccb *s = prepare(8 + sizeof(s->mask));

	s->mask.mask_length = sizeof(u32);
	s->mask.send = send;
	service(WRITE_EVENT_MASK);
}

void say(const char *text)
{
	volatile struct sccb *s;
	u32 n = 0;

	set_mask(VT220_MASK);
	s = prepare(0);
	for (; text[n] && n < sizeof(s->event.text); n++)
		s->event.text[n] = text[n];
	s->event.type = VT220_EVENT;
	s->event.length = 6 + n;
	s->length = 8 + 6 + n;
	service(WRITE_EVENT_DATA);
}

void say_hex(const char *name, u32 value)
{
	char digits[12] = " 0x";
	u32 at = 3;

	for (int shift = 12; shift >= 0; shift -= 4)
		digits[at++] = "0123456789abcdef"[value >> shift & 15];
	digits[at] = 0;
	say(name);
	say(digits);
}

/* console_off gives the console back, so that the kernel finds it as after a reset. */
void console_off(void)
{
	set_mask(0);
}
