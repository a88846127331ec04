package rootdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/e2fs"
	"github.com/secexec/secexec/rootdisk/ext4"
	"github.com/secexec/secexec/rootdisk/luks2"
	"github.com/secexec/secexec/template"
)

// emptyFeatures are those of a file system that lives for one boot. It has no
// journal, since nobody replays it, and no second superblock, since nobody
// repairs it.
const emptyFeatures = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super2,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// Empty makes the template of an empty ext4 for a volume of size bytes, a
// multiple of MiB from 4 MiB to 1 TiB, whose other blocks may hold anything.
// The same id gives the same bytes with the same e2fsprogs. work is a folder
// for a file that takes little room, whatever the size.
func Empty(ctx context.Context, work string, size int64, id [16]byte) ([]byte, error) {
	if size < 4*mebi || size%mebi != 0 || size > maxContent {
		return nil, fmt.Errorf("%w: an empty file system of %d bytes: wants a multiple of 1 MiB from 4 MiB to 1 TiB", ErrOptions, size)
	}
	f, err := nameless(work)
	if err != nil {
		return nil, fmt.Errorf("make empty file system: %w", err)
	}
	defer f.Close()
	text, err := makeEmpty(ctx, f, size, id)
	if err != nil {
		return nil, fmt.Errorf("make empty file system: %w", err)
	}
	return text, nil
}

func makeEmpty(ctx context.Context, f *os.File, size int64, id [16]byte) ([]byte, error) {
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	uuid := luks2.FormatUUID(seedUUID(id))
	// lazy_itable_init leaves bitmaps and inode tables unwritten, and says so in
	// the group descriptors.
	if _, err := run(ctx, f, nil, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-I", "256", "-i", "16384", "-U", uuid,
		"-O", emptyFeatures, "-E", "num_backup_sb=0,lazy_itable_init=1,nodiscard,root_owner=0:0,hash_seed="+uuid, e2fs.Image); err != nil {
		return nil, err
	}
	// Without it the kernel would zero all inode tables of a file system that
	// the next boot throws away.
	if _, err := run(ctx, f, nil, "tune2fs", "-E", "mount_opts=noinit_itable", e2fs.Image); err != nil {
		return nil, err
	}
	fs, err := ext4.Open(f, size)
	if err != nil {
		return nil, err
	}
	t := &template.Template{Size: uint64(size)}
	if t.Runs, err = runs(f, size, fs.Bitmaps()); err != nil {
		return nil, err
	}
	return t.Marshal()
}

// runs reads the blocks that are not zero, and some that may be.
func runs(f *os.File, size int64, zeros []int64) (out []template.Run, err error) {
	const block = template.BlockSize
	slices.Sort(zeros)
	b := make([]byte, block)
	take := func(at int64) {
		if n := len(out); n > 0 && out[n-1].Offset+uint64(len(out[n-1].Data)) == uint64(at) {
			out[n-1].Data = append(out[n-1].Data, b...)
			return
		}
		out = append(out, template.Run{Offset: uint64(at), Data: slices.Clone(b)})
	}
	for at := int64(0); ; at += block {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			data = size
		case errors.Is(err, unix.EINVAL): // a file system that knows no holes
			data = at
		case err != nil:
			return nil, err
		}
		at = data / block * block
		for len(zeros) > 0 && zeros[0]*block < at {
			clear(b)
			take(zeros[0] * block)
			zeros = zeros[1:]
		}
		if at >= size {
			return out, nil
		}
		if n, err := f.ReadAt(b, at); n < block {
			return nil, errors.Join(err, io.ErrUnexpectedEOF)
		}
		needed := len(zeros) > 0 && zeros[0]*block == at
		if needed {
			zeros = zeros[1:]
		}
		if needed || !isZero(b) {
			take(at)
		}
	}
}
