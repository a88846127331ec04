package booted

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/sealed"
)

// What is closed in every guest, and what the plan adds, as its root and a user
// without rights see it; and what is in its memory then.
func TestHardening(t *testing.T) {
	t.Parallel()
	small(t)
	p, err := plan("hardened", filepath.Join(lab.dir, "small-root"), "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	p.Strip = true // lockdown begins when guestinit's modules are loaded
	p.Hardening = sealed.Hardening{
		Lockdown: sealed.LockdownConfidentiality, LockModules: true, HidePID: true,
		Sysctls: []sealed.Sysctl{{Name: "vm.swappiness", Value: "7"}, {Name: "kernel.yama.ptrace_scope", Value: "2"}},
	}
	p.Volumes = []owner.Volume{{Name: "data", Mount: "/srv", FileSystem: owner.FileSystem{Size: 8 << 20}}}
	if _, err := owner.Build(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	// A disk that is not the plan's, with names that tempt.
	n := newNode(t)
	extra := n.path("extra")
	if err := os.WriteFile(extra, plainRoot(t, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := n.secexec("run", p.Bundle, "--name", "g", "--cpus", "2", "--disk", extra+",serial=root-1"); err != nil {
		t.Fatalf("run: %v\n%s\n%s", err, out, n.console("g"))
	}
	console := n.says("g", "testinit: waits")
	for _, want := range []string{
		`sysctl kernel/core_pattern \|/bin/false <nil>`, `sysctl kernel/sysrq 0 `, `sysctl kernel/dmesg_restrict 1 `, `sysctl kernel/kptr_restrict 2 `,
		`sysctl kernel/panic_on_oops 1 `, `sysctl kernel/perf_event_paranoid 3 `, `sysctl kernel/unprivileged_bpf_disabled 1 `, `sysctl kernel/yama/ptrace_scope 2 `,
		`sysctl kernel/kexec_load_disabled (1 <nil>|.*no such file)`, `sysctl fs/suid_dumpable 0 `, `sysctl fs/protected_fifos 1 `, `sysctl fs/protected_hardlinks 1 `,
		`sysctl fs/protected_regular 2 `, `sysctl fs/protected_symlinks 1 `, `sysctl net/core/bpf_jit_harden (2 <nil>|.*no such file)`,
		`sysctl vm/swappiness 7 `, `sysctl kernel/modules_disabled 1 `,
		`99-secexec.conf: vm.swappiness = 7`, `99-secexec.conf: kernel.yama.ptrace_scope = 2`, `99-secexec.conf: kernel.sysrq = 0`,
		`core limit 0 0 <nil>`, `load a module: operation not permitted`, `lockdown none integrity \[confidentiality\] <nil>`,
		`kallsyms "0000000000000000 .*" <nil>`,
		`nobody sees process 1: false`, `nobody reads the kernel log: operation not permitted`, `nobody asks for the kernel log: operation not permitted`,
		`/proc/mounts: proc /proc proc rw,nosuid,nodev,noexec,relatime,hidepid=(2|invisible) `,
		`/proc/mounts: sysfs /sys sysfs rw,nosuid,nodev,noexec,`, `/proc/mounts: devtmpfs /dev devtmpfs rw,nosuid,noexec,`, `/proc/mounts: tmpfs /run tmpfs rw,nosuid,nodev,noexec,`,
	} {
		if !regexp.MustCompile(want).MatchString(console) {
			t.Errorf("console has no %s", want)
		}
	}
	for line := range strings.Lines(console) {
		if strings.Contains(line, "/proc/mounts: /dev/") && !strings.Contains(line, "/dev/dm-0 / ext4") && !strings.Contains(line, "/dev/dm-1 /srv ext4 rw,nodev,") {
			t.Errorf("a disk that was not planned is mounted: %s", line)
		}
	}
	g, err := n.c.Get(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	searchSecrets(t, int(g.Pid), p.Bundle)
	if t.Failed() {
		t.Log(console)
	}
}

// A parameter that the kernel does not have stops the guest before the hand-over.
func TestUnknownSysctl(t *testing.T) {
	t.Parallel()
	small(t)
	p, err := plan("unknown-sysctl", filepath.Join(lab.dir, "small-root"), "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	p.Strip = true
	p.Hardening.Sysctls = []sealed.Sysctl{{Name: "kernel.no_such_thing", Value: "1"}}
	if _, err := owner.Build(context.Background(), p); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	if err := n.launch(p.Bundle, "g"); err != nil {
		t.Fatal(err)
	}
	g := n.settled("g")
	if console := n.console("g"); g.State != "failed" || g.Failure.Code != "G135" || strings.Contains(console, "testinit") {
		t.Errorf("guest is %v\n%s", g, console)
	}
}
