// Package blockdev finds a disk by its virtio serial number in sysfs.
//
// The serial number comes from the host: it says where to look, never what to
// believe.
package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
)

// Errors of Find.
var (
	ErrNotFound  = errors.New("no disk with this serial number")
	ErrAmbiguous = errors.New("several disks with this serial number")
)

// Disk is a block device.
type Disk struct {
	Name         string // as in /sys/block
	Major, Minor uint32
	Size         uint64 // bytes
}

// Find looks for the one disk with a serial number in /sys/block.
func Find(block fs.FS, serial string) (*Disk, error) {
	entries, err := fs.ReadDir(block, ".")
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var found *Disk
	for _, e := range entries {
		if text, err := fs.ReadFile(block, e.Name()+"/serial"); err != nil || strings.TrimRight(string(text), "\n\x00 ") != serial {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%w: %s and %s", ErrAmbiguous, found.Name, e.Name())
		}
		if found, err = read(block, e.Name()); err != nil {
			return nil, err
		}
	}
	if found == nil {
		return nil, ErrNotFound
	}
	return found, nil
}

func read(block fs.FS, name string) (*Disk, error) {
	dev, err := fs.ReadFile(block, name+"/dev")
	if err != nil {
		return nil, fmt.Errorf("read device number of %s: %w", name, err)
	}
	size, err := fs.ReadFile(block, name+"/size")
	if err != nil {
		return nil, fmt.Errorf("read size of %s: %w", name, err)
	}
	majorText, minorText, _ := strings.Cut(strings.TrimSpace(string(dev)), ":")
	major, err1 := strconv.ParseUint(majorText, 10, 32)
	minor, err2 := strconv.ParseUint(minorText, 10, 32)
	sectors, err3 := strconv.ParseUint(strings.TrimSpace(string(size)), 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil || sectors > math.MaxInt64/512 {
		return nil, fmt.Errorf("read disk %s: device %q, size %q: %w", name, dev, size, err)
	}
	return &Disk{Name: name, Major: uint32(major), Minor: uint32(minor), Size: sectors * 512}, nil
}
