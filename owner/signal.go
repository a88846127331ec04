package owner

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// signalNames are Linux's, in the order of their numbers from 1 on (signal(7));
// s390x has no others.
var signalNames = []string{
	"HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT",
	"CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
}

// Real-time signals as the C library numbers them: the kernel's first two are
// its own.
const rtMin, rtMax = 34, 64

// parseSignal parses a signal's name or number, as an image states it: SIGTERM,
// TERM, 15, SIGRTMIN+3.
func parseSignal(s string) (uint8, error) {
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	n, err := strconv.ParseUint(name, 10, 8)
	switch i := slices.Index(signalNames, name); {
	case i >= 0:
		n, err = uint64(i)+1, nil
	case name == "RTMIN":
		n, err = rtMin, nil
	case name == "RTMAX":
		n, err = rtMax, nil
	case strings.HasPrefix(name, "RTMIN+"):
		n, err = strconv.ParseUint(name[len("RTMIN+"):], 10, 6)
		n += rtMin
	case strings.HasPrefix(name, "RTMAX-"):
		n, err = strconv.ParseUint(name[len("RTMAX-"):], 10, 5)
		n = rtMax - n
	}
	if err != nil || n < 1 || n > rtMax {
		return 0, fmt.Errorf("%.40q is no signal: signal(7) lists them", s)
	}
	return uint8(n), nil
}
