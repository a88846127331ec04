package rootdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/secexec/secexec/rootdisk/diskimage"
	"github.com/secexec/secexec/rootdisk/oci"
)

// plainText is a file system that is to be encrypted.
type plainText interface {
	io.ReaderAt
	io.Closer
}

// plain gives the file system that the options ask for, and fills in what the
// volume is. Work is a private folder.
func (o *Options) plain(ctx context.Context, work string, v *Volume) (plainText, error) {
	if _, _, ok := oci.Transport(o.Source); ok {
		return o.staged(ctx, work, v, func(t *tree) error { return o.image(ctx, work, v, t) })
	}
	if o.Source == "" {
		return o.staged(ctx, work, v, func(*tree) error { return nil })
	}
	info, err := os.Stat(o.Source)
	if err != nil {
		return nil, fmt.Errorf("read root: %w", err)
	}
	switch {
	case info.IsDir():
		if _, err := os.Lstat(filepath.Join(o.Source, "oci-layout")); err == nil {
			return nil, fmt.Errorf("read root %s: %w: it is a container image, not its files: say oci:%s", o.Source, ErrSource, o.Source)
		}
		if within(work, info) {
			return nil, fmt.Errorf("%w: the disk lies in its source %s: make it elsewhere", ErrOptions, o.Source)
		}
		t := openFolder(o.Source, o.limit())
		return o.ext4(ctx, work, v, t, t.addFolder(ctx, o.Source, o.skipped))
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("read root %s: %w: it is neither a folder nor a file", o.Source, ErrSource)
	}
	f, err := os.Open(o.Source)
	if err != nil {
		return nil, fmt.Errorf("read root: %w", err)
	}
	if !diskimage.Is(f) {
		f.Close()
		return o.staged(ctx, work, v, func(t *tree) error { return t.addTar(ctx, o.Source, o.skipped) })
	}
	p, err := o.disk(f, v)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read root %s: %w", o.Source, err)
	}
	return p, nil
}

func (o *Options) skipped(name string) {
	if o.Skipped != nil {
		o.Skipped(name)
	}
}

// within tells whether a path lies in a folder.
func within(path string, dir os.FileInfo) bool {
	path, err := filepath.Abs(path)
	for err == nil {
		info, e := os.Stat(path)
		if e == nil && os.SameFile(info, dir) {
			return true
		}
		if path == filepath.Dir(path) {
			return false
		}
		path = filepath.Dir(path)
	}
	return false
}

// limit bounds what files may have in bytes.
func (o *Options) limit() int64 {
	if o.Size != 0 {
		return o.Size
	}
	return maxContent
}

// staged stages files and makes an ext4 of them.
func (o *Options) staged(ctx context.Context, work string, v *Volume, fill func(*tree) error) (plainText, error) {
	t, err := newTree(filepath.Join(work, "tree"), o.limit())
	if err != nil {
		return nil, err
	}
	defer t.root.Close()
	return o.ext4(ctx, work, v, t, fill(t))
}

// ext4 makes an ext4 of a tree, whose filling gave an error or none.
func (o *Options) ext4(ctx context.Context, work string, v *Volume, t *tree, err error) (plainText, error) {
	switch {
	case err != nil:
		return nil, fmt.Errorf("read root %s: %w", o.Source, err)
	case o.Partition != 0:
		return nil, fmt.Errorf("%w: a partition can be chosen in a disk image only", ErrOptions)
	case !t.named && o.Source != "":
		return nil, fmt.Errorf("read root %s: %w: it is empty", o.Source, ErrSource)
	}
	if v.Files, err = t.files(o.Read); err != nil {
		return nil, fmt.Errorf("read root %s: %w", o.Source, err)
	}
	f, size, err := makeExt4(ctx, work, t, v.ID, o)
	if err != nil {
		return nil, err
	}
	v.Size, v.FSType, v.Entries = size, "ext4", t.entries+1
	return f, nil
}

func (o *Options) image(ctx context.Context, work string, v *Volume, t *tree) error {
	img, err := oci.Open(ctx, o.Source, oci.Options{SkipTLS: o.SkipTLS, Temp: work})
	if err != nil {
		return err
	}
	v.Config, v.Digest = &img.Config, img.Digest
	return errors.Join(t.addImage(ctx, img, o.skipped), img.Close())
}

// disk finds the root in a disk image. It is taken as it is.
func (o *Options) disk(f *os.File, v *Volume) (plainText, error) {
	img, err := diskimage.Open(f)
	if err != nil {
		return nil, err
	}
	p, err := diskimage.Root(img, o.Partition)
	if err != nil {
		return nil, err
	}
	v.FSType = p.FileSystem
	v.Size = (p.Size + cryptSector - 1) &^ (cryptSector - 1)
	if o.Size != 0 {
		if o.Size < v.Size {
			return nil, fmt.Errorf("%w: the file system has %d MiB and can't shrink to %d MiB", ErrOptions, (v.Size+mebi-1)/mebi, o.Size/mebi)
		}
		v.Size = o.Size
	}
	return &padded{io.NewSectionReader(img, p.Start, p.Size), f}, nil
}

// padded is a file system with zeros after its end.
type padded struct {
	*io.SectionReader
	io.Closer
}

func (p *padded) ReadAt(b []byte, at int64) (int, error) {
	inside := min(int64(len(b)), max(0, p.Size()-at))
	if n, err := p.SectionReader.ReadAt(b[:inside], at); int64(n) < inside {
		return n, errors.Join(fmt.Errorf("%w: the image ends early", ErrSource), err)
	}
	clear(b[inside:])
	return len(b), nil
}
