// Package bootdisk makes one disk that boots by itself: partition table, boot
// partition with SE boot images, encrypted partitions, and a zIPL boot record
// by which QEMU's firmware for s390x loads an image, without -kernel.
//
//	block 0          boot block, protective MBR
//	block 1 to 33    GUID partition table
//	block 34 on      boot record: program table, programs, segment tables
//	1 MiB less 64 KiB  zeros, which holes of an image's file are read from
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
	"io"
	"os"
	"regexp"

	"github.com/secexec/secexec/outfile"
)

const mebi = 1 << 20

// Where the parts before the first partition lie, in blocks.
const (
	recordBlock = gptFirstUsable
	zeroBlock   = zeroEnd - zeroBlocks
	zeroBlocks  = 128
	zeroEnd     = mebi / BlockSize
)

// The SE image's part that firmware loads, and how it starts it (zIPL's
// convention for kernels): all from 64 KiB on, to its own address. Below that
// an image has nothing that its boot loader needs. The PSW is in the short
// form: bit 12, 31-bit addressing; stage3a's entry switches to 64 bits.
const (
	entryAddr = 0x10000
	entryPSW  = 0x0008_0000_8000_0000 | entryAddr
)

// Limits of a disk.
const (
	maxImage      = 2<<30 - 2<<20 - entryAddr // firmware itself lies in the last 2 MiB below 2 GiB
	maxPartitions = 32
)

// ErrOptions is wrapped by errors about what a disk can't be made of.
var ErrOptions = errors.New("bootable disk can't be made so")

// Image is an SE boot image and its entry in the boot menu.
type Image struct {
	Name string // file name in the boot partition, such as "boot.seimg"
	Path string // file on this machine
}

// Volume is an encrypted volume and its partition.
type Volume struct {
	ID   GUID   // the partition's number, by which guestinit finds it
	Name string // the partition's name
	Path string // file on this machine: LUKS2 header and payload
}

// Options say what to put on a disk.
type Options struct {
	Images   []Image // the first one boots by default; the n-th is chosen by loadparm n
	BootSize int64   // bytes of the boot partition, a multiple of MiB; 0: room for the images and one more
	Volumes  []Volume
}

var imageName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$`)

// Create makes a raw disk image at path, which must not exist. It appears
// complete or not at all. What the image does not use stays a hole.
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
	if err := out.Truncate(table.Size); err != nil {
		return nil, fmt.Errorf("create bootable disk: %w", err)
	}
	boot := table.Partitions[0]
	fs, err := makeBootFS(ctx, out.Name(), boot.Start, boot.Size, NewGUID())
	if err != nil {
		return nil, err
	}
	for _, image := range o.Images {
		if err := fs.write(ctx, image.Path, image.Name); err != nil {
			return nil, err
		}
	}
	if err := fs.check(ctx); err != nil {
		return nil, err
	}
	for i, v := range o.Volumes {
		if err := copyVolume(ctx, out.File, table.Partitions[1+i], v.Path); err != nil {
			return nil, err
		}
	}
	if err := table.Write(out); err != nil {
		return nil, err
	}
	if err := writeRecord(ctx, out.File, fs, o.Images, images); err != nil {
		return nil, err
	}
	return table, out.Commit()
}

// measure checks the options and returns the images' sizes in bytes.
func (o *Options) measure() (sizes []int64, largest int64, err error) {
	if len(o.Images) == 0 || len(o.Images) > MaxEntries {
		return nil, 0, fmt.Errorf("%w: %d images, wants 1 to %d", ErrOptions, len(o.Images), MaxEntries)
	}
	names := make(map[string]bool)
	for _, image := range o.Images {
		if !imageName.MatchString(image.Name) || names[image.Name] || image.Name == "lost+found" {
			return nil, 0, fmt.Errorf("%w: image name %.80q is not a unique plain file name", ErrOptions, image.Name)
		}
		names[image.Name] = true
		size, err := fileSize(image.Path)
		switch {
		case err != nil:
			return nil, 0, fmt.Errorf("read image: %w", err)
		case size <= entryAddr || size > maxImage:
			return nil, 0, fmt.Errorf("%w: image %s has %d bytes: firmware loads images of up to %d MiB", ErrOptions, image.Path, size, maxImage/mebi)
		}
		sizes = append(sizes, size)
		largest = max(largest, size)
	}
	return sizes, largest, nil
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

// writeRecord writes the boot record for images in the boot partition: slot 0,
// the default, is the first one; slot n is the n-th. The boot block comes last:
// until then the old record, if there is one, stands.
func writeRecord(ctx context.Context, disk *os.File, fs *bootFS, images []Image, sizes []int64) error {
	var programs []Program
	slots := []int{0}
	for i, image := range images {
		runs, err := fs.runs(ctx, image.Name, sizes[i])
		if err != nil {
			return err
		}
		programs = append(programs, Program{[]Load{{entryAddr, fill(skip(runs, entryAddr/BlockSize))}}, entryPSW})
		slots = append(slots, i)
	}
	record, err := marshalRecord(programs, slots, recordBlock)
	if err != nil {
		return err
	}
	if len(record) > (zeroBlock-recordBlock)*BlockSize {
		return fmt.Errorf("%w: the images' files are in too many pieces for a boot record of %d KiB", ErrOptions, (zeroBlock-recordBlock)*BlockSize>>10)
	}
	block := make([]byte, BlockSize)
	if _, err := disk.ReadAt(block, 0); err != nil {
		return fmt.Errorf("write boot record: %w", err)
	}
	bootBlock(block, recordBlock)
	if _, err := disk.WriteAt(record, recordBlock*BlockSize); err != nil {
		return fmt.Errorf("write boot record: %w", err)
	}
	if _, err := disk.WriteAt(block, 0); err != nil {
		return fmt.Errorf("write boot record: %w", err)
	}
	return nil
}

// skip takes n blocks off the front of a file's runs.
func skip(runs []Run, n int64) []Run {
	for len(runs) > 0 && n >= runs[0].Blocks {
		n -= runs[0].Blocks
		runs = runs[1:]
	}
	if len(runs) == 0 || n == 0 {
		return runs
	}
	first := runs[0]
	if first.Block != 0 {
		first.Block += n
	}
	first.Blocks -= n
	return append([]Run{first}, runs[1:]...)
}

// fill has holes read from the disk's run of zeros: memory may hold anything.
func fill(runs []Run) (full []Run) {
	for _, r := range runs {
		for ; r.Block == 0 && r.Blocks > zeroBlocks; r.Blocks -= zeroBlocks {
			full = append(full, Run{zeroBlock, zeroBlocks})
		}
		if r.Block == 0 {
			r.Block = zeroBlock
		}
		full = append(full, r)
	}
	return full
}

// copyVolume copies a volume's bytes into its partition, the whole of it.
func copyVolume(ctx context.Context, disk *os.File, p Partition, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("copy volume: %w", err)
	}
	defer in.Close()
	if _, err := disk.Seek(p.Start, io.SeekStart); err != nil {
		return fmt.Errorf("copy volume: %w", err)
	}
	copied := int64(0)
	for err == nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		var n int64
		// A file to a file: the kernel copies, or shares, the blocks.
		n, err = io.CopyN(disk, in, min(64*mebi, p.Size+1-copied))
		if copied += n; copied > p.Size {
			break
		}
	}
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("copy volume %s: %w", path, err)
	case roundUp(copied) != p.Size:
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
