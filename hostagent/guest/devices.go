package guest

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
)

// attach puts the disks and networks of a request into a guest's record, with
// all that they leave out: from then on nothing about them changes, whatever
// later versions' defaults are. It looks at each as a start will again.
func attach(rec *store.Guest, disks []store.Disk, networks []store.Network) error {
	for i, d := range disks {
		if d.Path == "" || d.File != "" {
			return fault.New(fault.BadRequest, "guest %s: disk %d has no absolute path", rec.Name, i+1)
		}
		d.Serial = cmp.Or(d.Serial, fmt.Sprintf("disk%d", i+1))
		unnamed := d.Format == ""
		d.Format = cmp.Or(d.Format, string(qemu.Raw))
		d.Bus = cmp.Or(d.Bus, string(qemu.VirtioBlk))
		d.Cache = cmp.Or(d.Cache, string(qemu.Writeback))
		d.Discard = cmp.Or(d.Discard, string(qemu.Ignore))
		rec.Disks = append(rec.Disks, d)
		if unnamed && looksLikeQcow2(d.Path) {
			return fault.New(fault.DiskImage, "disk %s of guest %s starts as a qcow2 image does: say that its format is qcow2, or raw if it is a disk whose guest wrote that", d.Path, rec.Name)
		}
	}
	for i, n := range networks {
		if n.MAC == "" {
			mac, err := qemu.MAC(rec.UUID, i)
			if err != nil {
				return fault.New(fault.BadRequest, "guest %s: %w", rec.Name, err)
			}
			n.MAC = mac
		}
		n.Queues = max(n.Queues, 1)
		rec.Networks = append(rec.Networks, n)
	}
	if _, err := diskConfig(rec, "/"); err != nil { // the guest's folder is made later
		return err
	}
	_, err := netConfig(rec)
	return err
}

// diskConfig is a guest's disks as QEMU is to have them. What the operator
// attached is looked at.
func diskConfig(rec *store.Guest, dir string) ([]qemu.Disk, error) {
	var out []qemu.Disk
	for _, d := range rec.Disks {
		out = append(out, qemu.Disk{
			Path: cmp.Or(d.Path, filepath.Join(dir, d.File)), Serial: d.Serial, ReadOnly: d.ReadOnly,
			Format: qemu.Format(d.Format), Bus: qemu.Bus(d.Bus), Cache: qemu.Cache(d.Cache), Discard: qemu.Discard(d.Discard),
		})
	}
	if err := qemu.CheckDisks(out); err != nil {
		return nil, fault.New(fault.BadRequest, "guest %s: %w", rec.Name, err)
	}
	for i, d := range rec.Disks {
		if d.Path == "" {
			continue
		}
		if err := look(&out[i]); errors.Is(err, qemu.ErrImage) {
			return nil, fault.New(fault.DiskImage, "guest %s: %w", rec.Name, err)
		} else if err != nil {
			return nil, fault.New(fault.Disk, "guest %s: %w", rec.Name, err)
		}
	}
	return out, nil
}

const sectorSize = 512

// look opens a disk as QEMU will, and sees what it is.
func look(d *qemu.Disk) error {
	how := unix.O_RDWR
	if d.ReadOnly {
		how = unix.O_RDONLY
	}
	// Not to wait for the other end of a pipe.
	f, err := os.OpenFile(d.Path, how|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("attach disk: %w", err)
	}
	defer f.Close()
	if err := d.CheckImage(f); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("attach disk: %w", err)
	}
	if size := info.Size(); !d.Device && d.Format != qemu.Qcow2 && (size == 0 || size%sectorSize != 0) {
		return fmt.Errorf("attach disk %s: a raw image of %d bytes is no whole number of %d-byte sectors", d.Path, size, sectorSize)
	}
	if d.Cache != qemu.Direct {
		return nil
	}
	direct, err := os.OpenFile(d.Path, how|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("attach disk %s: its file system has no direct I/O: choose cache mode writeback", d.Path)
	} else if err != nil {
		return fmt.Errorf("attach disk: %w", err)
	}
	return direct.Close()
}

func looksLikeQcow2(path string) bool {
	f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false // look says why
	}
	defer f.Close()
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular() && qemu.LooksLikeQcow2(f)
}

// netConfig is a guest's networks as QEMU is to have them. Tap interfaces are
// looked for, but for those that another program hands over when it is asked.
func netConfig(rec *store.Guest) ([]qemu.Net, error) {
	var out []qemu.Net
	for _, n := range rec.Networks {
		if n.Kind != "user" && n.Kind != "tap" && n.Kind != "handed" {
			return nil, fault.New(fault.BadRequest, "guest %s: a network is of kind user, tap or handed, not %.40q", rec.Name, n.Kind)
		}
		if (n.Kind == "tap") != (n.Tap != "") || (n.Kind == "handed") != (n.Socket != "") {
			return nil, fault.New(fault.BadRequest, "guest %s: a network of kind tap names its interface, one of kind handed a socket, and no other", rec.Name)
		}
		net := qemu.Net{MAC: n.MAC, Tap: n.Tap, User: n.Kind == "user", Socket: n.Socket, Queues: int(min(n.Queues, 1<<16))}
		for _, p := range n.Publish {
			net.Publish = append(net.Publish, qemu.Publish{Node: int(min(p.Node, 1<<16)), Guest: int(min(p.Guest, 1<<16))})
		}
		out = append(out, net)
	}
	if err := qemu.CheckNets(out); err != nil {
		return nil, fault.New(fault.BadRequest, "guest %s: %w", rec.Name, err)
	}
	for _, n := range out {
		if n.Tap == "" {
			continue
		}
		if _, err := qemu.CheckTap("/sys", n.Tap, n.Queues); err != nil {
			return nil, fault.New(fault.Network, "guest %s: %w", rec.Name, err)
		}
	}
	return out, nil
}
