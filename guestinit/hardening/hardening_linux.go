package hardening

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/sealed"
)

// Start sets what is the same in all guests, and protects guestinit itself: its
// memory is not dumped, traced or swapped, and the host's ctrl-alt-del ("quiesce"
// on s390x) does nothing. /proc is mounted.
func Start() error {
	// Ctrl-alt-del now sends SIGINT, which would end a Go program. A handler, as
	// opposed to an ignored signal, does not outlive exec.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return fmt.Errorf("turn ctrl-alt-del off: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid tracing: %w", err)
	}
	// What is used is locked; what Go reserved and never touched costs nothing.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("lock memory: %w", err)
	}
	// A limit is what all later processes inherit.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	for _, p := range parameters {
		if err := set(p.Sysctl); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Sysctls sets what was sealed. A parameter that the kernel does not have, or a
// value that it does not take, is an error. /run becomes the root's later.
func Sysctls(asked []sealed.Sysctl) error {
	for _, s := range asked {
		if err := set(s); err != nil {
			return err
		}
	}
	// After 50-default.conf and the like; see sysctl.d(5).
	const file = "/run/sysctl.d/99-secexec.conf"
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("keep kernel parameters: %w", err)
	}
	if err := os.WriteFile(file, []byte(persistent(asked)), 0o644); err != nil {
		return fmt.Errorf("keep kernel parameters: %w", err)
	}
	return nil
}

func set(s sealed.Sysctl) error {
	f, err := os.OpenFile("/proc/sys/"+path(s.Name), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set kernel parameter %s: %w", s.Name, err)
	}
	defer f.Close()
	if _, err := f.WriteString(s.Value); err != nil {
		return fmt.Errorf("set kernel parameter %s to %q: %w", s.Name, s.Value, err)
	}
	return nil
}

// Lock closes what the guest needed until now: the last step before the
// hand-over. What was asked for and can't be had is an error.
func Lock(h *sealed.Hardening) error {
	if h.HidePID {
		const flags = unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		if err := unix.Mount("proc", "/proc", "proc", flags, "hidepid=2"); err != nil { // "invisible", in the form that all kernels take
			return fmt.Errorf("hide processes: %w", err)
		}
	}
	if h.LockModules {
		if err := set(sealed.Sysctl{Name: "kernel.modules_disabled", Value: "1"}); err != nil {
			return err
		}
	}
	return lockDown(h.Lockdown)
}

// lockDown puts the kernel into a lockdown mode, through a securityfs of its
// own: the root mounts one if it wants to.
func lockDown(mode sealed.Lockdown) error {
	if mode == sealed.LockdownNone {
		return nil
	}
	const dir, file = "/sys/kernel/security", "/sys/kernel/security/lockdown"
	if err := unix.Mount("securityfs", dir, "securityfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount securityfs: %w", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	list, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("lock the kernel down: %w", err)
	}
	if lockedDown(string(list), mode) { // by the kernel command line
		return nil
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("lock the kernel down: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(lockdownWords[mode]); err != nil {
		return fmt.Errorf("lock the kernel down: %w", err)
	}
	return nil
}
