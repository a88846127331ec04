// Package hardening closes what a guest's kernel leaves open: always a fixed
// part, and what the sealed record asks for beyond it.
package hardening

import (
	"strings"

	"github.com/secexec/secexec/sealed"
)

// parameter is a kernel parameter that guestinit always sets. One that a kernel
// does not have is left out.
type parameter struct {
	sealed.Sysctl
	keep bool // distributions set it weaker: a file in /run/sysctl.d says it again
}

// parameters are chosen so that no root and no workload that we know of breaks;
// docs/hardening.md has each one's reason. Where a value above ours is stricter
// and usual (perf_event_paranoid, protected_regular), ours is that one.
var parameters = []parameter{
	// Memory of processes and of the kernel goes to no file and no console. The
	// program in core_pattern need not be there: nothing else is tried then.
	{sealed.Sysctl{Name: "kernel.core_pattern", Value: "|/bin/false"}, true},
	{sealed.Sysctl{Name: "fs.suid_dumpable", Value: "0"}, true},
	{sealed.Sysctl{Name: "kernel.dmesg_restrict", Value: "1"}, true},
	{sealed.Sysctl{Name: "kernel.kptr_restrict", Value: "2"}, true},
	// The host types on the console: no key of its may make the kernel show
	// registers and tasks there, or restart.
	{sealed.Sysctl{Name: "kernel.sysrq", Value: "0"}, true},
	// A kernel that found itself wrong does not go on with what it guards.
	{sealed.Sysctl{Name: "kernel.panic_on_oops", Value: "1"}, false},
	// Ways from a process into the kernel or into another process.
	{sealed.Sysctl{Name: "kernel.kexec_load_disabled", Value: "1"}, false},
	{sealed.Sysctl{Name: "kernel.perf_event_paranoid", Value: "3"}, false},
	{sealed.Sysctl{Name: "kernel.unprivileged_bpf_disabled", Value: "1"}, false},
	{sealed.Sysctl{Name: "kernel.yama.ptrace_scope", Value: "1"}, false},
	{sealed.Sysctl{Name: "net.core.bpf_jit_harden", Value: "2"}, false},
	// Ways of one user to another's files in a folder that both may write.
	{sealed.Sysctl{Name: "fs.protected_fifos", Value: "1"}, false},
	{sealed.Sysctl{Name: "fs.protected_hardlinks", Value: "1"}, false},
	{sealed.Sysctl{Name: "fs.protected_regular", Value: "2"}, false},
	{sealed.Sysctl{Name: "fs.protected_symlinks", Value: "1"}, false},
}

// path is where a parameter is written, below /proc/sys.
func path(name string) string { return strings.ReplaceAll(name, ".", "/") }

// persistent returns the text of a sysctl.d(5) file that keeps a root's own
// defaults from undoing what was set: what distributions set weaker, then what
// was sealed.
func persistent(asked []sealed.Sysctl) string {
	var b strings.Builder
	b.WriteString("# By guestinit. A file of this name in /etc/sysctl.d goes before it.\n")
	sealedToo := make(map[string]bool)
	for _, s := range asked {
		sealedToo[s.Name] = true
	}
	for _, p := range parameters {
		if p.keep && !sealedToo[p.Name] {
			b.WriteString(p.Name + " = " + p.Value + "\n")
		}
	}
	for _, s := range asked {
		b.WriteString(s.Name + " = " + s.Value + "\n")
	}
	return b.String()
}

// lockdownWords are the kernel's names of lockdown modes (kernel_lockdown(7)).
var lockdownWords = map[sealed.Lockdown]string{
	sealed.LockdownNone: "none", sealed.LockdownIntegrity: "integrity", sealed.LockdownConfidentiality: "confidentiality",
}

// lockedDown tells whether the kernel is locked down as asked, or more, from
// its list of modes, such as "none [integrity] confidentiality".
func lockedDown(list string, asked sealed.Lockdown) bool {
	_, rest, _ := strings.Cut(list, "[")
	word, _, _ := strings.Cut(rest, "]")
	for mode, name := range lockdownWords {
		if name == word {
			return mode >= asked
		}
	}
	return false
}
