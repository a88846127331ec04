// Package blockdev finds in sysfs a disk by its virtio serial number, or a
// partition by its GUID.
//
// Both come from the host: they say where to look, never what to
// believe.
package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Errors of finding.
var (
	ErrNotFound  = errors.New("no such disk or partition")
	ErrAmbiguous = errors.New("several disks or partitions of this number")
)

// Disk is a block device: a disk or a partition.
type Disk struct {
	Name         string // as in sysfs
	Major, Minor uint32
	Size         uint64 // bytes
}

// FindSerial looks in /sys/block for the one disk with a serial number.
func FindSerial(block fs.FS, serial string) (*Disk, error) {
	return find(block, func(name string) bool {
		text, err := fs.ReadFile(block, name+"/serial")
		return err == nil && strings.TrimRight(string(text), "\n\x00 ") == serial
	})
}

// FindPartition looks in /sys/class/block for the one partition with a GUID. The
// kernel tells it in the uevent (Linux 6.0 and later), in lower case.
func FindPartition(block fs.FS, id [16]byte) (*Disk, error) {
	want := fmt.Sprintf("PARTUUID=%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	return find(block, func(name string) bool {
		text, err := fs.ReadFile(block, name+"/uevent")
		return err == nil && slices.Contains(strings.Split(string(text), "\n"), want)
	})
}

// find looks for the one block device that is meant.
func find(block fs.FS, meant func(name string) bool) (*Disk, error) {
	entries, err := fs.ReadDir(block, ".")
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var found *Disk
	for _, e := range entries {
		if !meant(e.Name()) {
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
