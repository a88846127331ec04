// Package mounts mounts what a guest needs before and for its root.
package mounts

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Kernel lists the kernel's own file systems, in mount order. Hand-over moves
// those into the root that lie directly under /.
var kernel = []struct {
	kind, path string
	flags      uintptr
	data       string
}{
	{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
	{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=0755"},
	{"cgroup2", "/sys/fs/cgroup", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"},
}

// Moved are the mount points that move into the root.
var Moved = []string{"/dev", "/proc", "/run", "/sys"}

// Kernel mounts the kernel's file systems.
func Kernel() error {
	for _, m := range kernel {
		if err := os.MkdirAll(m.path, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
		if err := unix.Mount(m.kind, m.path, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.path, err)
		}
	}
	return nil
}

// Root mounts the root's file system.
func Root(device, path, kind string, readOnly bool) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	var flags uintptr
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount(device, path, kind, flags, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", device, path, err)
	}
	return nil
}
