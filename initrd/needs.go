package initrd

import (
	"errors"
	"fmt"
	"slices"
)

// Wanted names a kernel module that a guest is to load, with all it needs.
type Wanted struct {
	Name     string // as modprobe takes it: dashes and underscores are the same
	Optional bool   // left out where the kernel has none; guestinit goes on where the CPU has no use for it
	For      string // what the guest needs it for, in an error's words, such as "virtio-blk disks"
}

// String names the module and what it is for.
func (w Wanted) String() string {
	if w.For == "" {
		return w.Name
	}
	return w.Name + " for " + w.For
}

// Needs says which devices and formats a guest must be able to use. A module
// that no field asks for stays out: each costs time at every start.
type Needs struct {
	Block       bool     // virtio-blk disks
	SCSI        bool     // virtio-scsi disks
	Net         bool     // virtio-net
	Console     bool     // virtio-console: its ports, such as the readiness port
	Vsock       bool     // virtio-vsock, with a kernel that has it
	Crypt       bool     // dm-crypt with AES-XTS
	Verity      bool     // dm-verity with SHA-256
	Integrity   bool     // dm-integrity with HMAC-SHA-256, also below dm-crypt
	FileSystems []string // of the root and of data volumes: ext4, xfs, erofs, overlay
}

// fileSystems are those that Needs may name, with their modules.
var fileSystems = map[string]string{"ext4": "ext4", "xfs": "xfs", "erofs": "erofs", "overlay": "overlay"}

// ErrFileSystem is wrapped by the error about a file system that no sealed
// guest mounts.
var ErrFileSystem = errors.New("not a file system of sealed guests")

// Modules returns what to load, in an order in which each finds its helpers:
// disks, then ciphers, then what asks for them. The SCLP console and the
// virtio-ccw transport are never modules on s390x.
func (n Needs) Modules() ([]Wanted, error) {
	var want []Wanted
	add := func(use bool, purpose string, names ...string) {
		for _, name := range names {
			w := Wanted{Name: name, For: purpose}
			if name[0] == '?' {
				w.Name, w.Optional = name[1:], true
			}
			if use {
				want = append(want, w)
			}
		}
	}
	add(n.Block, "virtio-blk disks", "virtio_blk")
	add(n.SCSI, "virtio-scsi disks", "virtio_scsi", "sd_mod")
	add(n.Console, "virtio-console", "virtio_console")
	add(n.Vsock, "virtio-vsock", "?vmw_vsock_virtio_transport")
	add(n.Net, "virtio-net", "virtio_net")
	// The CPU's own ciphers and digests come first, where it has them: dm
	// targets take what is there when they are set up.
	add(n.Crypt, "dm-crypt", "?aes_s390", "xts", "dm-crypt")
	add(n.Verity || n.Integrity, "SHA-256", "?sha256_s390")
	add(n.Verity, "dm-verity", "dm-verity")
	add(n.Integrity, "dm-integrity", "hmac", "authenc", "dm-integrity")
	for _, name := range slices.Compact(slices.Sorted(slices.Values(n.FileSystems))) {
		module, ok := fileSystems[name]
		if !ok {
			return nil, fmt.Errorf("plan initrd: %w: %s", ErrFileSystem, name)
		}
		add(true, "the file system "+name, module)
	}
	return want, nil
}
