package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/store"
)

// populate copies the bundle's parts into the guest's folder. The record comes
// last: a folder without one is removed when hostagent starts.
func (f *Fleet) populate(ctx context.Context, b *bundle.Bundle, g *Guest) error {
	dir := g.dir()
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrExist) {
		return fault.New(fault.NameTaken, "%s holds a guest that this hostagent can't read: its log says why", dir)
	}
	if err != nil {
		return fault.New(fault.Storage, "make guest's folder: %w", err)
	}
	err = copyPart(ctx, b, b.Manifest.Image.Part, dir, 0o400)
	for _, d := range b.Manifest.Disks {
		switch {
		case err != nil:
		case d.Blank():
			err = makeBlank(filepath.Join(dir, d.File), d.Size)
		default:
			err = copyPart(ctx, b, d.Part, dir, 0o600)
		}
	}
	if err == nil {
		err = g.update(func(*store.Guest) error { return nil })
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// makeBlank makes a disk without content, which takes no room before the guest
// writes to it.
func makeBlank(path string, size int64) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = errors.Join(out.Truncate(size), out.Sync(), out.Close())
	}
	if err != nil {
		return fault.New(fault.Storage, "make blank disk: %w", err)
	}
	return nil
}

// clonePart has the file system share a part's blocks (reflink: xfs, btrfs), which
// takes no room and no time, and checks what came of it. ErrUnsupported is an error
// for which there is a copy.
func clonePart(ctx context.Context, b *bundle.Bundle, p bundle.Part, out *os.File) error {
	src, err := b.OpenPart(p)
	if err != nil {
		return err
	}
	defer src.Close()
	if unix.IoctlFileClone(int(out.Fd()), int(src.Fd())) != nil {
		return errors.ErrUnsupported
	}
	got, err := bundle.Describe(ctx, p.File, io.NewSectionReader(out, 0, p.Size))
	if err != nil {
		return err
	}
	if info, err := out.Stat(); err != nil || info.Size() != p.Size || got != p {
		return fmt.Errorf("copy %s: %w: its SHA-256 is %.16s…, the manifest says %.16s…: transfer the bundle again", p.File, bundle.ErrDamaged, got.SHA256, p.SHA256)
	}
	return nil
}

func copyPart(ctx context.Context, b *bundle.Bundle, p bundle.Part, dir string, mode os.FileMode) error {
	out, err := os.OpenFile(filepath.Join(dir, p.File), os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fault.New(fault.Storage, "copy bundle: %w", err)
	}
	if err = clonePart(ctx, b, p, out); errors.Is(err, errors.ErrUnsupported) {
		err = b.CopyPart(ctx, p, out)
	}
	if f := (*fault.Error)(nil); errors.Is(err, bundle.ErrDamaged) || errors.Is(err, bundle.ErrMissing) || errors.As(err, &f) {
		out.Close()
		return bundleFault(err)
	}
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fault.New(fault.Storage, "copy bundle: %w", err)
	}
	return nil
}
