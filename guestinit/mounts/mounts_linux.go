// Package mounts mounts what a guest needs before and for its root.
package mounts

import (
	"errors"
	"fmt"
	"os"
	"strings"

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

// SecretsPath is the folder of secrets that the owner delivers, and secretsSize
// its room: the plan's most files of the largest size, twice.
const (
	SecretsPath = "/run/secexec/secrets"
	secretsSize = "size=4m,nr_inodes=128,mode=0755"
)

// Secrets mounts the file system in memory that secrets are delivered to. It is
// never swapped where the kernel can promise that (noswap, Linux 6.4).
func Secrets() error {
	if err := os.MkdirAll(SecretsPath, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	var err error
	for _, data := range []string{secretsSize + ",noswap", secretsSize} {
		if err = unix.Mount("tmpfs", SecretsPath, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, data); err == nil {
			return nil
		}
	}
	return fmt.Errorf("mount tmpfs on %s: %w", SecretsPath, err)
}

// ErrMountPoint says that nothing can be mounted where it should.
var ErrMountPoint = errors.New("no folder to mount on")

// Data mounts a data volume in the root at a clean absolute path. A folder that
// is missing is made, if the file system there can be written; no symbolic link
// is followed. Device nodes on it mean nothing.
func Data(device, root, path, kind string, readOnly bool) error {
	dir, err := folder(root, path)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrMountPoint, path, err)
	}
	defer unix.Close(dir)
	flags := uintptr(unix.MS_NODEV)
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount(device, fmt.Sprintf("/proc/self/fd/%d", dir), kind, flags, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", device, path, err)
	}
	return nil
}

// Bind shows a folder, with what is mounted in it, at a place in the root, which
// is made as Data makes it.
func Bind(source, root, path string) error {
	dir, err := folder(root, path)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrMountPoint, path, err)
	}
	defer unix.Close(dir)
	if err := unix.Mount(source, fmt.Sprintf("/proc/self/fd/%d", dir), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, path, err)
	}
	return nil
}

// folder opens a folder in the root step by step, and makes what is missing.
func folder(root, path string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	dir, err := unix.Open(root, flags, 0)
	if err != nil {
		return -1, err
	}
	for _, name := range strings.Split(path[1:], "/") {
		next, err := unix.Openat(dir, name, flags, 0)
		if errors.Is(err, unix.ENOENT) {
			if err = unix.Mkdirat(dir, name, 0o755); err == nil {
				next, err = unix.Openat(dir, name, flags, 0)
			}
		}
		unix.Close(dir)
		if err != nil {
			return -1, fmt.Errorf("%s: %w", name, err)
		}
		dir = next
	}
	return dir, nil
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
