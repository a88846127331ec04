package main

import (
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// asNobody is the word with which testinit runs itself as a user without rights.
const asNobody = "as-nobody"

// hardening says how closed the guest is, to root and to a user without rights.
func hardening() {
	for _, name := range []string{
		"fs/protected_fifos", "fs/protected_hardlinks", "fs/protected_regular", "fs/protected_symlinks", "fs/suid_dumpable",
		"kernel/core_pattern", "kernel/dmesg_restrict", "kernel/kexec_load_disabled", "kernel/kptr_restrict", "kernel/modules_disabled",
		"kernel/panic_on_oops", "kernel/perf_event_paranoid", "kernel/sysrq", "kernel/unprivileged_bpf_disabled", "kernel/yama/ptrace_scope",
		"net/core/bpf_jit_harden", "net/ipv4/ip_forward", "vm/swappiness",
	} {
		text, err := os.ReadFile("/proc/sys/" + name)
		say("sysctl %s %s %v", name, strings.TrimSpace(string(text)), err)
	}
	dump("/run/sysctl.d/99-secexec.conf")
	var core unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_CORE, &core)
	say("core limit %d %d %v", core.Cur, core.Max, err)
	say("load a module: %v", loadModule())
	err = unix.Mount("securityfs", "/sys/kernel/security", "securityfs", 0, "")
	text, _ := os.ReadFile("/sys/kernel/security/lockdown")
	say("lockdown %s %v", strings.TrimSpace(string(text)), err)
	symbols, err := os.ReadFile("/proc/kallsyms")
	first, _, _ := strings.Cut(string(symbols), "\n")
	say("kallsyms %q %v", first, err)
	tainted, _ := os.ReadFile("/proc/sys/kernel/tainted")
	say("tainted %s", strings.TrimSpace(string(tainted)))

	cmd := exec.Command("/proc/self/exe", asNobody)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Run(); err != nil {
		say("run as nobody: %v", err)
	}
}

// loadModule tries to load what is no module: ENOEXEC from a kernel that would
// load modules, EPERM from one that does not.
func loadModule() error {
	return unix.InitModule([]byte("no module"), "")
}

// nobody says what a user without rights sees.
func nobody() {
	_, err := os.Stat("/proc/1")
	say("nobody sees process 1: %v", err == nil)
	log, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		_, err = unix.Read(log, make([]byte, 8192))
	}
	say("nobody reads the kernel log: %v", err)
	_, err = unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 4096))
	say("nobody asks for the kernel log: %v", err)
}
