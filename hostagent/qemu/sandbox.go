package qemu

// sandboxArgs turns on QEMU's seccomp filter: no system calls that only old
// programs use, no change of user, no new process, no change of scheduling. A
// guest that takes over its QEMU can then start no shell.
func sandboxArgs() []string {
	return []string{"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"}
}
