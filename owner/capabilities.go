package owner

import (
	"fmt"
	"slices"
	"strings"
)

// capabilityNames are the kernel's, in the order of their numbers
// (linux/capability.h).
var capabilityNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
	"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
	"SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
	"AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
	"PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// defaultCapabilities are podman's (containers-common, containers.conf).
var defaultCapabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

// capabilities gives the set for a workload, and which of it a program of
// another user than root has, too: what was added. "ALL" is all of them.
func capabilities(add, drop []string) (all, ambient uint64, err error) {
	set, err := capabilitySet(defaultCapabilities)
	if err != nil {
		return 0, 0, err
	}
	added, err := capabilitySet(add)
	if err != nil {
		return 0, 0, err
	}
	dropped, err := capabilitySet(drop)
	if err != nil {
		return 0, 0, err
	}
	if dropsAll := slices.ContainsFunc(drop, func(s string) bool { return strings.EqualFold(s, "all") }); dropsAll {
		return added, added, nil // as podman: all but those
	}
	return (set | added) &^ dropped, added &^ dropped, nil
}

func capabilitySet(names []string) (set uint64, err error) {
	for _, name := range names {
		upper := strings.ToUpper(name)
		if upper == "ALL" {
			set |= 1<<len(capabilityNames) - 1
			continue
		}
		n := slices.Index(capabilityNames, strings.TrimPrefix(upper, "CAP_"))
		if n < 0 {
			return 0, fmt.Errorf("%.80q is no capability: capabilities(7) lists them", name)
		}
		set |= 1 << n
	}
	return set, nil
}
