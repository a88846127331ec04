package bootdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/secexec/secexec/e2fs"
)

// ErrNoBoot says that a disk has no boot partition of this package's making.
var ErrNoBoot = errors.New("no boot partition with " + CurrentImage)

// Replace puts a new default image on a disk that Create made: a raw image file
// or a block device, in use by nobody. The default so far becomes the previous
// image, entry 2 of the boot menu, and the previous one goes; further entries
// stay. The boot record changes last, by a write of one block: whatever happens
// before, the old default boots.
func Replace(ctx context.Context, path, image string) error {
	size, err := imageSize(image)
	if err != nil {
		return err
	}
	disk, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("replace image: %w", err)
	}
	defer disk.Close()
	length, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("replace image on %s: %w", path, err)
	}
	programs, fs, err := inspect(disk, length)
	if err != nil {
		return fmt.Errorf("replace image on %s: %w", path, err)
	}
	if err := fs.replace(ctx, image, size); err != nil {
		return fmt.Errorf("replace image on %s: %w", path, err)
	}
	program, err := fs.program(ctx, CurrentImage, size)
	if err != nil {
		return err
	}
	// The old default's file has another name now, and lies where it lay.
	programs = append([]Program{program, programs[0]}, programs[min(2, len(programs)):]...)
	return writeRecord(disk, programs)
}

// inspect returns the programs of a disk's boot menu, from entry 1 on, and its
// boot partition's file system.
func inspect(disk *os.File, size int64) (programs []Program, fs *bootFS, err error) {
	table, err := ReadTable(disk, size)
	if err != nil {
		return nil, nil, err
	}
	slots, err := ReadRecord(disk, size)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range slots[1:] {
		if p == nil {
			break
		}
		programs = append(programs, *p)
	}
	if len(programs) == 0 || len(table.Partitions) == 0 || table.Partitions[0].Type != TypeBoot {
		return nil, nil, ErrNoBoot
	}
	return programs, &bootFS{disk.Name(), table.Partitions[0].Start}, nil
}

// newImage is the new image's name until it is whole.
const newImage = "new.seimg"

// spare is what a file needs in the file system besides its bytes: tables of its
// extents, and its last block.
const spare = 16 * fsBlock

// replace makes the current image the previous one and a file of this machine
// the current one.
func (b *bootFS) replace(ctx context.Context, image string, size int64) error {
	// A guest may have left its journal to be replayed; exit status 1: done.
	if _, err := run(ctx, "", "e2fsck", "-p", b.name()); err != nil && exitStatus(err) != 1 {
		return fmt.Errorf("check boot file system: %w", err)
	}
	there, err := b.names(ctx)
	if err != nil {
		return err
	}
	if there[CurrentImage] == 0 {
		return ErrNoBoot
	}
	free, err := b.free(ctx)
	if err != nil {
		return err
	}
	if room := free + there[newImage] + there[PreviousImage]; room < size+spare {
		return fmt.Errorf("%w: the boot partition has room for an image of %d MiB, this one has %d MiB", ErrOptions, max(0, room-spare)/mebi, size/mebi)
	}
	for _, name := range []string{newImage, PreviousImage} {
		if there[name] > 0 {
			if err := b.change(ctx, "rm "+name); err != nil {
				return err
			}
		}
	}
	if err := b.write(ctx, image, newImage); err != nil {
		return errors.Join(err, b.change(ctx, "rm "+newImage))
	}
	if err := b.change(ctx,
		"ln "+CurrentImage+" "+PreviousImage, "unlink "+CurrentImage,
		"ln "+newImage+" "+CurrentImage, "unlink "+newImage); err != nil {
		return err
	}
	return b.check(ctx)
}

// change has debugfs change the file system.
func (b *bootFS) change(ctx context.Context, commands ...string) error {
	out, err := b.debugfs(ctx, "-w", strings.Join(commands, "\n")+"\n")
	if err == nil {
		err = silent(out)
	}
	if err != nil {
		return fmt.Errorf("change boot partition: %w", err)
	}
	return nil
}

// free returns how many bytes are free in the file system.
func (b *bootFS) free(ctx context.Context) (int64, error) {
	out, err := b.debugfs(ctx, "", "stats -h\n")
	if err != nil {
		return 0, fmt.Errorf("look at boot partition: %w", err)
	}
	for line := range strings.Lines(out) {
		if n, ok := strings.CutPrefix(line, "Free blocks:"); ok {
			blocks, err := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			return blocks * fsBlock, err
		}
	}
	return 0, fmt.Errorf("look at boot partition: %w: debugfs tells no number of free blocks", e2fs.ErrFailed)
}

// names lists the files in the file system's root folder with their sizes in
// bytes.
func (b *bootFS) names(ctx context.Context) (map[string]int64, error) {
	out, err := b.debugfs(ctx, "", "ls -p /\n") // /inode/mode/uid/gid/name/size/
	if err != nil {
		return nil, fmt.Errorf("list boot partition: %w", err)
	}
	names := make(map[string]int64)
	for line := range strings.Lines(out) {
		if fields := strings.Split(line, "/"); len(fields) > 6 && fields[0] == "" {
			if names[fields[5]], err = strconv.ParseInt(fields[6], 10, 64); err != nil && fields[6] != "" {
				return nil, fmt.Errorf("list boot partition: %w", err)
			}
		}
	}
	return names, nil
}
