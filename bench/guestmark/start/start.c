/*
 * The init of the roots that bench/guest.sh boots: it says when it was started
 * and how long the CPU had been idle by then, before anything else takes time,
 * leaves the CPU to guestagent and becomes guestmark. Without a C library and in
 * one page, so that its own start counts for next to nothing.
 */
#define CLOCK_MONOTONIC 1
enum { SYS_read = 3, SYS_write = 4, SYS_open = 5, SYS_execve = 11, SYS_nanosleep = 162, SYS_clock_gettime = 260 };
struct time { long seconds, nanoseconds; };

static long call(long number, long a, long b, long c)
{
	register long r1 asm("1") = number;
	register long r2 asm("2") = a;
	register long r3 asm("3") = b;
	register long r4 asm("4") = c;
	asm volatile("svc 0" : "+d"(r2) : "d"(r1), "d"(r3), "d"(r4) : "memory");
	return r2;
}

static void say(const char *text, long size)
{
	call(SYS_write, 1, (long)text, size);
}

void _start(void)
{
	struct time now, pause = { 2, 0 };
	char idle[32], nanoseconds[] = "00000000000000000000";
	const char *argv[] = { "/sbin/guestmark", 0 };

	call(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&now, 0);
	long file = call(SYS_open, (long)"/sys/devices/system/cpu/cpu0/idle_time_us", 0, 0); /* s390x has it */
	long size = call(SYS_read, file, (long)idle, sizeof idle);
	unsigned long n = now.seconds * 1000000000ul + now.nanoseconds;
	for (char *digit = nanoseconds + sizeof nanoseconds - 2; n; n /= 10)
		*digit-- += n % 10;
	say("MARK started ", 13);
	say(nanoseconds, sizeof nanoseconds - 1);
	say(" ns, idle us ", 13);
	say(idle, size > 0 ? size : 0);
	call(SYS_nanosleep, (long)&pause, 0, 0);
	call(SYS_execve, (long)argv[0], (long)argv, (long)(argv + 1));
	for (;;)
		;
}
