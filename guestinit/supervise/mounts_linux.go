package supervise

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/guestinit/mounts"
	"github.com/secexec/secexec/sealed"
)

// ownRun is guestinit's and guestagent's place beneath /run, in memory.
const ownRun = "/run/secexec"

// Moved makes ready which mounts move into a workload's root. An image has files
// of its own in /run, such as folders of its users', so there only guestinit's
// own place is put into it. A root that can't be written gets all of /run, in
// memory.
func Moved(root string) ([]string, error) {
	if readOnly(root) {
		return mounts.Moved, nil
	}
	if err := os.MkdirAll(ownRun, 0o755); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	if err := mounts.Bind(ownRun, root, ownRun); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(mounts.Moved), func(path string) bool { return path == "/run" }), nil
}

func readOnly(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

const harmless = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mount is a file system to mount.
type mount struct {
	kind, path string
	flags      uintptr
	data       string
	optional   bool // not every kernel has it
}

// devices are the nodes that containers have (OCI runtime-spec,
// config-linux.md), and console for guestinit.
var devices = []struct {
	name         string
	mode         uint32
	major, minor uint32
}{
	{"null", 0o666, 1, 3}, {"zero", 0o666, 1, 5}, {"full", 0o666, 1, 7}, {"random", 0o666, 1, 8},
	{"urandom", 0o666, 1, 9}, {"tty", 0o666, 5, 0}, {"console", 0o600, 5, 1},
}

var links = [][2]string{
	{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"},
}

// What a program of root's could harm the kernel by although it lacks the
// capabilities for that: such files ask for the user alone. Container engines
// protect the same ones.
var (
	readOnlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys", "/sys/fs/cgroup"}
	maskedFiles   = []string{"/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug"}
	maskedFolders = []string{"/proc/acpi", "/proc/asound", "/proc/scsi", "/sys/firmware", "/sys/dev/block"}
)

// makeMounts gives the root, which is / by now, what a container has in /dev, /proc
// and /sys. A workload that may mount could undo what protects the kernel from
// it, so it is spared that. What guestinit itself writes there it has open before.
func makeMounts(w *sealed.Workload) error {
	wanted := []mount{
		{kind: "tmpfs", path: "/dev", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "mode=0755,size=1m"},
		{kind: "devpts", path: "/dev/pts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{kind: "tmpfs", path: "/dev/shm", flags: harmless, data: "mode=1777"},
		{kind: "mqueue", path: "/dev/mqueue", flags: harmless, optional: true},
	}
	if readOnly("/") {
		for _, path := range []string{"/tmp", "/var/tmp"} {
			wanted = append(wanted, mount{kind: "tmpfs", path: path, flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777", optional: true})
		}
	}
	for _, m := range wanted {
		if err := os.MkdirAll(m.path, 0o755); err != nil && !m.optional {
			return fmt.Errorf("make mount point: %w", err)
		}
		if err := unix.Mount(m.kind, m.path, m.kind, m.flags, m.data); err != nil && !m.optional {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.path, err)
		}
	}
	if err := fillDev(); err != nil {
		return err
	}
	// As docker has it, for images whose program is not root's: low ports are
	// nobody else's to protect them from.
	_ = os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0)
	if w.Capabilities>>unix.CAP_SYS_ADMIN&1 != 0 {
		return nil
	}
	return protect()
}

func fillDev() error {
	before := unix.Umask(0)
	defer unix.Umask(before)
	for _, d := range devices {
		if err := unix.Mknod("/dev/"+d.name, unix.S_IFCHR|d.mode, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("make /dev/%s: %w", d.name, err)
		}
	}
	for _, l := range links {
		if err := os.Symlink(l[0], "/dev/"+l[1]); err != nil {
			return fmt.Errorf("make /dev/%s: %w", l[1], err)
		}
	}
	return nil
}

// protect covers what the workload must not write or read. What this kernel does
// not have needs no cover.
func protect() error {
	for _, path := range maskedFiles {
		if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mask %s: %w", path, err)
		}
	}
	for _, path := range maskedFolders {
		if err := unix.Mount("tmpfs", path, "tmpfs", harmless|unix.MS_RDONLY, "size=0k"); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mask %s: %w", path, err)
		}
	}
	for _, path := range readOnlyPaths {
		// A mount of its own: what guestinit has open beneath stays writable to it.
		err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, "")
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err == nil {
			err = unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|harmless, "")
		}
		if err != nil {
			return fmt.Errorf("make %s read-only: %w", path, err)
		}
	}
	return nil
}

// Unmount unmounts the data volumes, given by their mount points in mount order,
// and makes the root read-only. What is busy is synced all the same.
func Unmount(data []string) {
	for _, path := range slices.Backward(data) {
		if unix.Unmount(path, 0) != nil {
			_ = unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	unix.Sync()
}
