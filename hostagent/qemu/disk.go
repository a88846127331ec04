package qemu

import (
	"fmt"

	"github.com/secexec/secexec/form"
)

// MaxDisks bounds a guest's disks, those of its bundle included.
const MaxDisks = 32

// Disk is one disk of the guest: an image in a file, or a block device.
type Disk struct {
	Path     string // image file or block device
	Device   bool   // Path is a block device
	Serial   string // serial number that the guest finds the disk by, 1 to 20 characters of a-z, A-Z, 0-9, '.', '_', '-'
	ReadOnly bool
	Format   Format  // "" means Raw; never found out from the bytes, which a guest writes
	Bus      Bus     // "" means VirtioBlk
	Cache    Cache   // "" means Writeback
	Discard  Discard // "" means Ignore
}

// Format is what the bytes of an image mean.
type Format string

// Formats of images. A qcow2 image stands alone: see [CheckImage].
const (
	Raw   Format = "raw"
	Qcow2 Format = "qcow2"
)

// Bus is how a disk is attached.
type Bus string

// The two buses that a guest's driver for Secure Execution exists for.
const (
	VirtioBlk  Bus = "virtio-blk"
	VirtioSCSI Bus = "virtio-scsi"
)

// Cache says what the host may hold back of a disk's writes. There is no unsafe
// mode: the guest's flushes always reach the host's storage.
type Cache string

// Cache modes.
const (
	Writeback Cache = "writeback" // through the host's page cache, by QEMU's pool of threads
	Direct    Cache = "direct"    // O_DIRECT and the kernel's own queue (aio=native); the file system must support it
)

// Discard says what becomes of blocks that the guest discards.
type Discard string

// Discard modes. A guest's sealed disks are encrypted in a way that passes no
// discards on, so this is for disks that the guest mounts as they are.
const (
	Ignore Discard = "ignore" // the guest sees a disk that can't discard
	Unmap  Discard = "unmap"  // the host frees the blocks: it learns which ones are in use
)

// CheckDisks refuses disks that QEMU could not attach or would misunderstand;
// it does not look at the files.
func CheckDisks(disks []Disk) error {
	if len(disks) > MaxDisks {
		return invalid("%d disks, at most %d", len(disks), MaxDisks)
	}
	serials := make(map[string]bool)
	for i := range disks {
		d := &disks[i]
		if err := d.check(); err != nil {
			return err
		}
		if serials[d.Serial] {
			return invalid("disk serial %q is used twice", d.Serial)
		}
		serials[d.Serial] = true
	}
	return nil
}

func (d *Disk) check() error {
	switch {
	case !form.Serial.MatchString(d.Serial):
		return invalid("disk serial %q is not 1 to 20 characters of a-z, A-Z, 0-9, '.', '_' and '-'", d.Serial)
	case d.Format != "" && d.Format != Raw && d.Format != Qcow2:
		return invalid("disk %s has unknown format %q: raw or qcow2", d.Serial, d.Format)
	case d.Bus != "" && d.Bus != VirtioBlk && d.Bus != VirtioSCSI:
		return invalid("disk %s has unknown bus %q: virtio-blk or virtio-scsi", d.Serial, d.Bus)
	case d.Cache != "" && d.Cache != Writeback && d.Cache != Direct:
		return invalid("disk %s has unknown cache mode %q: writeback or direct", d.Serial, d.Cache)
	case d.Discard != "" && d.Discard != Ignore && d.Discard != Unmap:
		return invalid("disk %s has unknown discard mode %q: ignore or unmap", d.Serial, d.Discard)
	case d.Discard == Unmap && d.ReadOnly:
		return invalid("disk %s is read-only: nothing on it can be discarded", d.Serial)
	}
	return checkPath("disk "+d.Serial, d.Path)
}

// scsi is the virtio-scsi controller, there if a disk wants it.
func scsi(c *Config) []string {
	for i, d := range c.Disks {
		if d.Bus == VirtioSCSI {
			return virtio("virtio-scsi-ccw", "scsi0", DevnoSCSI, append(object{{"num_queues", DiskQueues(c.CPUs)}}, onThread(c, i)...)...)
		}
	}
	return nil
}

// disks attaches each disk. QEMU's image lock stays on: two QEMUs that write one
// image would destroy its file system. detect-zeroes stays off: it looks at each
// write for zeros, and what a sealed disk writes is ciphertext.
func disks(c *Config) []string {
	var argv []string
	for i := range c.Disks {
		d := &c.Disks[i]
		id := fmt.Sprintf("disk%d", i)
		chain, node := d.blockdevs(id, c.file(d.Path))
		argv = append(argv, chain...)
		var boot object
		if i == 0 && c.BootDisk {
			boot = object{{"bootindex", 1}}
		}
		if d.Bus == VirtioSCSI {
			// The controller is the virtio device; the disk on it has no
			// iommu_platform and no thread of its own.
			o := object{
				{"driver", "scsi-hd"}, {"id", id}, {"bus", "scsi0.0"}, {"channel", 0}, {"scsi-id", i}, {"lun", 0},
				{"drive", node}, {"serial", d.Serial}, {"device_id", d.Serial}, {"write-cache", "on"},
			}
			if d.Discard != Unmap {
				o = append(o, member{"discard_granularity", 0}) // no thin provisioning
			}
			argv = append(argv, device(append(o, boot...))...)
			continue
		}
		o := object{
			{"drive", node}, {"serial", d.Serial}, {"write-cache", "on"},
			{"discard", d.Discard == Unmap}, {"num-queues", DiskQueues(c.CPUs)},
		}
		o = append(append(o, onThread(c, i)...), boot...)
		argv = append(argv, virtio("virtio-blk-ccw", id, DevnoDisks+i, o...)...)
	}
	return argv
}

// blockdevs is the disk's image, which QEMU finds at path, as its block layer sees
// it, and the name of its uppermost node. Each node's driver is named: nothing is
// ever found out from an image's content.
func (d *Disk) blockdevs(id, path string) (argv []string, node string) {
	driver, aio, discard := "file", "threads", "ignore"
	if d.Device {
		driver = "host_device"
	}
	if d.Cache == Direct {
		aio = "native"
	}
	if d.Discard == Unmap {
		discard = "unmap"
	}
	node = id + "-file"
	common := object{
		{"read-only", d.ReadOnly}, {"discard", discard},
		{"cache", object{{"direct", d.Cache == Direct}, {"no-flush", false}}},
	}
	argv = []string{"-blockdev", append(object{
		{"driver", driver}, {"node-name", node}, {"filename", path}, {"locking", "on"}, {"aio", aio},
	}, common...).String()}
	if d.Format == Qcow2 {
		// backing is null: whatever the image names, QEMU opens no other file
		// beneath it.
		below := node
		node = id + "-qcow2"
		argv = append(argv, "-blockdev", append(object{
			{"driver", "qcow2"}, {"node-name", node}, {"file", below}, {"backing", nil},
		}, common...).String())
	}
	return argv, node
}

// maxQueues is how many queues classic indicators have bits for: beyond it a
// guest without adapter interrupts would find none of its disks.
const maxQueues = 64

// DiskQueues is a disk's or controller's number of queues: one per CPU, so that
// CPUs don't wait for each other's lock. QEMU does that by itself for PCI devices
// only.
func DiskQueues(cpus int) int { return min(cpus, maxQueues) }
