// Package qemu knows QEMU: the argument vector of a guest ([Args], a file per
// device), which releases serve ([Version]) and how to speak to a running one
// ([Monitor], the QMP client).
//
// A guest's devices are few and the same on every platform: the SCLP console,
// virtio-blk and virtio-scsi disks, virtio-serial with the readiness port and, if
// asked for, virtio-net. Each virtio device has iommu_platform=on, so the
// guest's driver reaches only the pages that the guest shares (the bounce
// buffers). What Secure Execution cannot have has no field here at all: no
// memory balloon, no huge pages, no device pass-through, no save and restore.
package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/secexec/secexec/form"
)

// Config says what one QEMU process runs. The caller fills in the guest's own
// facts; a platform (package platform) fills in Accel, CPU, Confidential,
// MemoryFile, GDBSocket and Stopped. Every path is absolute.
type Config struct {
	Name   string // guest name: a-z, 0-9 and '-', 1 to 63 characters
	UUID   string // 8-4-4-4-12 lower-case hex; finds the process after a restart
	Binary string // QEMU program: path, or a name looked up in PATH

	MemoryMiB int // guest memory in MiB
	CPUs      int // virtual CPUs

	Kernel string // the SE boot image, unless BootDisk

	BootDisk bool   // no Kernel: firmware loads an image from the first disk
	Loadparm string // entry of that disk's boot menu, "" for the default

	Disks []Disk
	Nets  []Net
	// OpenDisk opens a disk with flags of open(2), where not every path may be;
	// nil: this process opens what it can.
	OpenDisk func(path string, flags int) (*os.File, error)

	ConsolePath     string // file that the console's output is appended to
	ReadinessSocket string // unix socket that QEMU serves the readiness port on
	ChannelSocket   string // unix socket that QEMU serves the owner's channel on; "": no port for it
	QMPSocket       string // unix socket that QEMU serves QMP on

	// From [Vsock.Open], as vsock device for the owner's channel; nil and 0: none.
	// [Open] takes the descriptor over.
	Vhost *os.File
	CID   uint32

	// RuntimeDir is the folder of files that live as long as the process; a
	// platform puts its own there. It must be private to hostagent's user.
	RuntimeDir string

	// Sandbox turns on QEMU's own seccomp filter; see [Release].
	Sandbox bool

	// The rest belongs to the platform.

	Accel        string // "kvm" or "tcg"
	CPU          string // CPU model: "host", "max"
	Confidential bool   // the machine carries an s390-pv-guest object
	MemoryFile   string // guest memory lies in this file, shared; "": anonymous memory
	GDBSocket    string // unix socket of the gdb stub; "": no stub
	Stopped      bool   // QEMU waits for cont (or the debugger) before the first instruction

	fds     map[string]int // descriptors of paths, after Open
	sets    []int          // those of them that QEMU finds through a descriptor set
	vhostFD int            // Vhost's

	letter int // descriptor of the connection with the guest's network description, after Open; 0: there is none
}

// ErrConfig is wrapped by every error about a Config.
var ErrConfig = errors.New("invalid QEMU configuration")

// MaxMemoryMiB and MaxCPUs bound what a guest may ask for: 4 TiB and the number
// of CPUs that s390-ccw-virtio has.
const (
	MaxMemoryMiB = 4 << 20
	MaxCPUs      = 248
)

// maxCPU bounds the text of a CPU model with its features.
const maxCPU = 1024

// maxSocketPath is sun_path's room less its NUL.
const maxSocketPath = 107

var cpuForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z0-9][a-zA-Z0-9._-]*(,[a-z0-9-]+=(on|off))*$`)
})

// Check reports the first value that QEMU could not run with or could
// misunderstand.
func (c *Config) Check() error {
	switch {
	case !form.Name.MatchString(c.Name):
		return invalid("guest name %q is not 1 to 63 characters of a-z, 0-9 and '-'", c.Name)
	case !form.UUID.MatchString(c.UUID):
		return invalid("UUID %q is not 8-4-4-4-12 lower-case hex digits", c.UUID)
	case c.Binary == "":
		return invalid("no QEMU program")
	case c.MemoryMiB < 1 || c.MemoryMiB > MaxMemoryMiB:
		return invalid("memory of %d MiB is not in 1..%d", c.MemoryMiB, MaxMemoryMiB)
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		return invalid("%d CPUs is not in 1..%d", c.CPUs, MaxCPUs)
	case c.Accel != "kvm" && c.Accel != "tcg":
		return invalid("accelerator %q is neither kvm nor tcg", c.Accel)
	case c.Accel == "tcg" && c.Confidential:
		return invalid("an s390-pv-guest needs kvm")
	case len(c.CPU) > maxCPU || !cpuForm().MatchString(c.CPU):
		return invalid("CPU model %q", c.CPU)
	case c.QMPSocket == "":
		return invalid("no QMP socket: nothing could start or stop the guest")
	case c.ChannelSocket != "" && c.ReadinessSocket == "":
		return invalid("a channel's port without the readiness port: an owner could not verify the guest")
	case c.CID != 0 && (c.CID < firstCID || c.CID > lastCID):
		return invalid("vsock address %d is not in %d..%d", c.CID, firstCID, lastCID)
	case (c.CID != 0) != (c.Vhost != nil):
		return invalid("vsock address %d and its device are not there both", c.CID)
	case c.BootDisk && (c.Kernel != "" || len(c.Disks) == 0):
		return invalid("boot from disk with kernel %q and %d disks", c.Kernel, len(c.Disks))
	case c.Loadparm != "" && !c.BootDisk:
		return invalid("loadparm %q for a guest that does not boot from a disk", c.Loadparm)
	case CheckLoadparm(c.Loadparm) != nil:
		return CheckLoadparm(c.Loadparm)
	}
	paths := map[string]string{
		"kernel": c.Kernel, "console": c.ConsolePath, "memory file": c.MemoryFile,
		"readiness socket": c.ReadinessSocket, "channel socket": c.ChannelSocket, "QMP socket": c.QMPSocket, "gdb socket": c.GDBSocket,
	}
	for what, p := range paths {
		if p == "" && (what != "kernel" || c.BootDisk) {
			continue
		}
		if err := checkPath(what, p); err != nil {
			return err
		}
		if strings.HasSuffix(what, "socket") && len(p) > maxSocketPath {
			return invalid("%s path %q has %d bytes, a unix socket has room for %d", what, p, len(p), maxSocketPath)
		}
	}
	return errors.Join(CheckDisks(c.Disks), CheckNets(c.Nets))
}

// CheckLoadparm refuses what QEMU takes for no loadparm; "" is none.
func CheckLoadparm(s string) error {
	if !form.Loadparm.MatchString(s) {
		return invalid("loadparm %q is not at most 8 characters of A-Z, 0-9 and '.'", s)
	}
	return nil
}

// checkPath wants what no quoting can go wrong with: absolute, clean, without
// control characters.
func checkPath(what, path string) error {
	switch {
	case !filepath.IsAbs(path) || filepath.Clean(path) != path:
		return invalid("%s path %q is not absolute and clean", what, path)
	case strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }):
		return invalid("%s path %q holds control or undecodable characters", what, path)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
}
