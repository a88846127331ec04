// Package bootdisk makes one disk that boots by itself: partition table, boot
// partition with SE boot images, encrypted partitions, and a zIPL boot record
// by which QEMU's firmware for s390x loads an image, without -kernel.
//
//	block 0          boot block, protective MBR
//	block 1 to 33    GUID partition table
//	block 34, 977    boot record, in one of two places: program table, programs,
//	                 segment tables
//	block 1920       zeros, which holes of an image's file are read from
//	1 MiB            partition 1: ext4 with the images as ordinary files
//	then             partition 2: root; 3 and on: data volumes; each on a MiB
//	end              second copy of the partition table
//
// Nothing here protects anything: whoever stores the disk can change all of it.
// The image protects itself, and guestinit believes none of the disk's tables.
package bootdisk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/secexec/secexec/outfile"
)

const mebi = 1 << 20

// Where the parts before the first partition lie, in blocks. There is room for
// two records: a new one is written beside the one in use.
const (
	recordBlock  = gptFirstUsable
	recordBlocks = (zeroBlock - recordBlock) / 2
	zeroBlock    = zeroEnd - zeroBlocks
	zeroBlocks   = 128
	zeroEnd      = mebi / BlockSize
)

// Limits of a disk.
const (
	maxImage      = 2<<30 - 2<<20 - entryAddr // firmware itself lies in the last 2 MiB below 2 GiB
	maxPartitions = 32
)

// ErrOptions is wrapped by errors about what a disk can't be made of.
var ErrOptions = errors.New("bootable disk can't be made so")

// Names of the images in the boot partition: the default one, and the one that
// it replaced.
const (
	CurrentImage  = "boot.seimg"
	PreviousImage = "previous.seimg"
)

// imageName is the file name of an entry of the boot menu, from 1 on.
func imageName(entry int) string {
	switch entry {
	case 1:
		return CurrentImage
	case 2:
		return PreviousImage
	}
	return fmt.Sprintf("boot-%d.seimg", entry)
}

// Volume is an encrypted volume and its partition.
type Volume struct {
	ID   GUID   // the partition's number, by which guestinit finds it
	Name string // the partition's name
	Path string // file on this machine: LUKS2 header and payload
}

// Options say what to put on a disk.
type Options struct {
	Images   []string // SE boot images on this machine: the first one boots by default, loadparm n chooses the n-th
	BootSize int64    // bytes of the boot partition, a multiple of MiB; 0: room for the images and one more
	Volumes  []Volume
	QCOW2    bool // the disk in QEMU's qcow2 format instead of a raw image
}

// Create makes a disk image at path, which must not exist. It appears complete
// or not at all. What the disk does not use takes no space.
func Create(ctx context.Context, path string, o Options) (*Table, error) {
	images, largest, err := o.measure()
	if err != nil {
		return nil, err
	}
	table, err := o.layout(images, largest)
	if err != nil {
		return nil, err
	}
	out, err := outfile.Create(path, 0o600, false)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	raw := out.File
	if o.QCOW2 {
		if raw, err = os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".raw-*"); err != nil {
			return nil, fmt.Errorf("create bootable disk: %w", err)
		}
		defer os.Remove(raw.Name())
		defer raw.Close()
	}
	if err := o.write(ctx, raw, table, images); err != nil {
		return nil, err
	}
	if o.QCOW2 {
		if err := ToQCOW2(ctx, out.File, raw, table.Size); err != nil {
			return nil, err
		}
	}
	return table, out.Commit()
}

// write writes a raw disk image to an empty file.
func (o *Options) write(ctx context.Context, disk *os.File, table *Table, images []int64) error {
	if err := disk.Truncate(table.Size); err != nil {
		return fmt.Errorf("create bootable disk: %w", err)
	}
	boot := table.Partitions[0]
	fs, err := makeBootFS(ctx, disk.Name(), boot.Start, boot.Size, NewGUID())
	if err != nil {
		return err
	}
	for i, path := range o.Images {
		if err := fs.write(ctx, path, imageName(1+i)); err != nil {
			return err
		}
	}
	if err := fs.check(ctx); err != nil {
		return err
	}
	for i, v := range o.Volumes {
		if err := copyVolume(ctx, disk, table.Partitions[1+i], v.Path); err != nil {
			return err
		}
	}
	if err := table.Write(disk); err != nil {
		return err
	}
	programs := make([]Program, len(images))
	for i, size := range images {
		if programs[i], err = fs.program(ctx, imageName(1+i), size); err != nil {
			return err
		}
	}
	return writeRecord(disk, programs)
}

// measure checks the options and returns the images' sizes in bytes.
func (o *Options) measure() (sizes []int64, largest int64, err error) {
	if len(o.Images) == 0 || len(o.Images) > MaxEntries {
		return nil, 0, fmt.Errorf("%w: %d images, wants 1 to %d", ErrOptions, len(o.Images), MaxEntries)
	}
	for _, path := range o.Images {
		size, err := imageSize(path)
		if err != nil {
			return nil, 0, err
		}
		sizes = append(sizes, size)
		largest = max(largest, size)
	}
	return sizes, largest, nil
}

// imageSize is an image's size in bytes, if firmware can load it.
func imageSize(path string) (int64, error) {
	size, err := fileSize(path)
	switch {
	case err != nil:
		return 0, fmt.Errorf("read image: %w", err)
	case size <= entryAddr || size > maxImage:
		return 0, fmt.Errorf("%w: image %s has %d bytes: firmware loads images of up to %d MiB", ErrOptions, path, size, maxImage/mebi)
	}
	return size, nil
}

// layout places the partitions.
func (o *Options) layout(images []int64, largest int64) (*Table, error) {
	size := o.BootSize
	if size == 0 {
		size = largest + 16*mebi // one more image, and the file system's own needs
		for _, n := range images {
			size += n
		}
		size = roundUp(size + size/32)
	}
	if size < 0 || size%mebi != 0 {
		return nil, fmt.Errorf("%w: boot partition of %d bytes is no multiple of 1 MiB", ErrOptions, size)
	}
	if 1+len(o.Volumes) > maxPartitions {
		return nil, fmt.Errorf("%w: %d volumes, at most %d", ErrOptions, len(o.Volumes), maxPartitions-1)
	}
	t := &Table{DiskID: NewGUID(), Partitions: []Partition{{TypeBoot, NewGUID(), "boot", mebi, size}}}
	at := mebi + size
	ids := make(map[GUID]bool)
	for _, v := range o.Volumes {
		size, err := fileSize(v.Path)
		switch {
		case err != nil:
			return nil, fmt.Errorf("read volume: %w", err)
		case size == 0:
			return nil, fmt.Errorf("%w: volume %s is empty", ErrOptions, v.Path)
		case v.ID == GUID{} || ids[v.ID]:
			return nil, fmt.Errorf("%w: volume %s has no GUID of its own", ErrOptions, v.Path)
		case len([]rune(v.Name)) > gptNameUnits/2:
			return nil, fmt.Errorf("%w: partition name %.80q is longer than %d characters", ErrOptions, v.Name, gptNameUnits/2)
		}
		ids[v.ID] = true
		t.Partitions = append(t.Partitions, Partition{TypeLUKS, v.ID, v.Name, at, roundUp(size)})
		at += roundUp(size)
	}
	t.Size = at + mebi // the table's second copy
	return t, nil
}

// copyVolume copies a volume's bytes into its partition, the whole of it; holes
// stay holes.
func copyVolume(ctx context.Context, disk *os.File, p Partition, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("copy volume: %w", err)
	}
	defer in.Close()
	n, err := outfile.CopyData(ctx, disk, p.Start, in)
	switch {
	case err != nil:
		return fmt.Errorf("copy volume %s: %w", path, err)
	case roundUp(n) != p.Size:
		return fmt.Errorf("copy volume: %s changed its size while it was read", path)
	}
	return nil
}

// fileSize is a regular file's size in bytes.
func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is no regular file", path)
	}
	return info.Size(), nil
}

func roundUp(n int64) int64 { return (n + mebi - 1) / mebi * mebi }
