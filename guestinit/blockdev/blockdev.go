// Package blockdev finds in sysfs a disk by its virtio serial number, or a
// partition by its GUID.
//
// Both come from the host: they say where to look, never what to
// believe.
package blockdev

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
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
	Name         string // path below /sys/block
	Major, Minor uint32
	Size         uint64 // bytes
}

// FindSerial looks in /sys/block for the one disk with a serial number.
func FindSerial(block fs.FS, serial string) (*Disk, error) {
	return find(block, func(name string) (found []string) {
		text, err := fs.ReadFile(block, name+"/serial")
		if err == nil && strings.TrimRight(string(text), "\n\x00 ") == serial {
			found = append(found, name)
		}
		return found
	})
}

// FindPartition looks in /sys/block and, for partition tables, in /dev for the
// one partition with a GUID, whose bytes are in the order of its text.
//
// Kernels before 6.13 don't tell GUIDs in sysfs. So the table is read here, too;
// the partition itself is the kernel's.
func FindPartition(block, dev fs.FS, id [16]byte) (*Disk, error) {
	return find(block, func(disk string) (found []string) {
		for _, number := range partitions(block, dev, disk, id) {
			if name := partition(block, disk, number); name != "" {
				found = append(found, disk+"/"+name)
			}
		}
		return found
	})
}

// partitions returns the numbers of a disk's partitions that have a GUID.
func partitions(block, dev fs.FS, disk string, id [16]byte) []int {
	size := 512
	if text, err := fs.ReadFile(block, disk+"/queue/logical_block_size"); err == nil {
		size, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	f, err := dev.Open(disk)
	if err != nil {
		return nil
	}
	defer f.Close()
	r, ok := f.(io.ReaderAt)
	if !ok {
		return nil
	}
	return findGUID(r, size, id)
}

// partition returns the name of a disk's partition by its number, "" if the
// kernel has none, or not yet.
func partition(block fs.FS, disk string, number int) string {
	entries, err := fs.ReadDir(block, disk)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		text, err := fs.ReadFile(block, disk+"/"+e.Name()+"/partition")
		if err == nil && strings.TrimSpace(string(text)) == strconv.Itoa(number) {
			return e.Name()
		}
	}
	return ""
}

// find looks for the one block device that is meant; meant returns the paths
// below /sys/block of those that a disk has.
func find(block fs.FS, meant func(disk string) []string) (*Disk, error) {
	entries, err := fs.ReadDir(block, ".")
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var found []string
	for _, e := range entries {
		found = append(found, meant(e.Name())...)
	}
	switch len(found) {
	case 0:
		return nil, ErrNotFound
	case 1:
		return read(block, found[0])
	}
	return nil, fmt.Errorf("%w: %v", ErrAmbiguous, found)
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
