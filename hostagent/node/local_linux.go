package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/hostagent/qemu"
)

// Local is this machine.
func Local() Machine {
	var u unix.Utsname
	arch := runtime.GOARCH
	if unix.Uname(&u) == nil {
		arch = unix.ByteSliceToString(u.Machine[:])
	}
	return Machine{Root: os.DirFS("/"), Arch: arch, CPUs: runtime.NumCPU(), Open: openDevice, Space: space, QEMU: qemu.Probe, Systemd: systemdVersion}
}

func openDevice(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// kinds are file systems by the magic number that statfs(2) tells.
var kinds = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", 0xff534d42: "cifs", unix.V9FS_MAGIC: "9p", unix.FUSE_SUPER_MAGIC: "fuse",
	unix.F2FS_SUPER_MAGIC: "f2fs", 0x2fc12fc1: "zfs", 0x47504653: "gpfs",
}

func space(path string) (Space, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(path, &st)
		if err == nil {
			break
		}
		parent := filepath.Dir(path)
		if !errors.Is(err, fs.ErrNotExist) || parent == path {
			return Space{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
		}
		path = parent
	}
	kind := kinds[int64(uint32(st.Type))]
	if kind == "" {
		kind = fmt.Sprintf("0x%x", uint32(st.Type))
	}
	return Space{Kind: kind, Free: st.Bavail * uint64(st.Bsize), Total: st.Blocks * uint64(st.Bsize)}, nil
}

// systemdVersion asks systemctl, where systemd is the machine's init.
func systemdVersion(ctx context.Context) (int, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return 0, err
	}
	return parseSystemd(string(out))
}

// parseSystemd reads "systemd 252 (252.38-1~deb12u1)".
func parseSystemd(out string) (int, error) {
	f := strings.Fields(out)
	if len(f) > 1 && f[0] == "systemd" {
		if n, err := strconv.Atoi(f[1]); err == nil && n > 0 {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%.40q is not its answer", out)
}
