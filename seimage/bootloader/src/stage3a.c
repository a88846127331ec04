/*
 * stage3a: the plain-text boot loader. It hands the IPIB to the ultravisor and
 * asks it to unpack the image. When that succeeds the guest starts elsewhere;
 * when it returns, this says why in words.
 *
 * The only STFLE and the only two DIAGNOSE 0x308 of the image's plain text are
 * here; a software ultravisor finds them by their bytes.
 */
#include "boot.h"

enum {
	SET_PV_PARAMETERS = 8, /* subcodes of DIAGNOSE 0x308 */
	PV_UNPACK = 10,
	DIAG_OK = 1,
	UNPACK_FACILITY = 161,
};

/* Written by the image builder; offsets count from the address of this record. */
extern const volatile struct {
	u64 header_offset;
	u64 header_size;
	u64 ipib_offset;
} stage3a_args;

/* Fields of the IPIB that stage3a fills in: block header 8 bytes, then the PV block. */
#define IPIB_HEADER_ADDR (8 + 112)
#define IPIB_HEADER_SIZE (8 + 120)

static int have_unpack(void)
{
	u64 list[3] = {0, 0, 0};
	register u64 last asm("0") = 2; /* index of the last doubleword wanted */

	asm volatile("stfle %0" : "=Q"(list), "+d"(last) : : "cc", "memory");
	return list[UNPACK_FACILITY / 64] >> (63 - UNPACK_FACILITY % 64) & 1;
}

/* The address goes into an even register, the result comes in the odd one after it. */
static u64 set_parameters(u64 ipib)
{
	register u64 addr asm("2") = ipib;
	register u64 result asm("3") = 0;
	register u64 subcode asm("4") = SET_PV_PARAMETERS;

	asm volatile("diag %0,%2,0x308" : "+d"(addr), "+d"(result) : "d"(subcode) : "cc", "memory");
	return result;
}

static u64 unpack(void)
{
	register u64 addr asm("2") = 0;
	register u64 result asm("3") = 0;
	register u64 subcode asm("4") = PV_UNPACK;

	asm volatile("diag %0,%2,0x308" : "+d"(addr), "+d"(result) : "d"(subcode) : "cc", "memory");
	return result;
}

/*
 * Words for what comes back: DIAGNOSE's own return code (QEMU: hw/s390x/ipl.h),
 * and where that says that the ultravisor refused, its rc and rrc.
 */
static const char *words(u16 diag, u16 rc, u16 rrc)
{
	switch (diag) {
	case 0x0102:
	case 0x0902: return "this machine kept no IPL parameters";
	case 0x0402: return "the IPL parameters are invalid";
	}
	switch (rc) {
	case 0x0102:
		switch (rrc) {
		case 0x1a: return "the addresses of the image's pages were changed";
		case 0x1b: return "the image's pages were changed";
		case 0x1c: return "the tweaks of the image's pages were changed";
		case 0x1d: return "the image has too few or too many pages";
		}
		return "the image was changed";
	case 0x0104: return "the SE header's version is not supported";
	case 0x0106: return "a plain-text control flag is not supported";
	case 0x0108:
		switch (rrc) {
		case 0x05: return "the image has no key slot for this host";
		case 0x0b: return "the customer public key is invalid";
		case 0x34: return "the backup host key is not allowed";
		}
		return "this host can't open the SE header";
	case 0x0109: return "a secret control flag is not supported";
	case 0x010a:
		switch (rrc) {
		case 0x31: return "the SE header's size is wrong";
		case 0x39: return "the SE header's encrypted area has a wrong size";
		case 0x40: return "the SE header has no key slot";
		}
		return "the SE header was changed";
	}
	return "see the ultravisor's return code";
}

static void __attribute__((noreturn)) refused(u64 result)
{
	u16 command = result >> 48, rrc = result >> 32, rc = result >> 16, diag = result;

	say("secexec: image refused: ");
	say(words(diag, rc, rrc));
	say_hex(" (command", command);
	say_hex(" rc", rc);
	say_hex(" rrc", rrc);
	say_hex(" diag", diag);
	say(")\r\n");
	stop(WAIT_REFUSED);
}

void stage3a(void)
{
	u64 base = (u64)&stage3a_args;
	u64 ipib = base + stage3a_args.ipib_offset;
	u64 result;

	if (!have_unpack()) {
		say("secexec: this machine has no secure unpack facility (161): "
		    "start the guest with the QEMU object s390-pv-guest on a host with Secure Execution\r\n");
		stop(WAIT_NO_UNPACK);
	}
	*(volatile u64 *)(ipib + IPIB_HEADER_ADDR) = base + stage3a_args.header_offset;
	*(volatile u64 *)(ipib + IPIB_HEADER_SIZE) = stage3a_args.header_size;
	result = set_parameters(ipib);
	if (result != DIAG_OK)
		refused(result);
	refused(unpack());
}
