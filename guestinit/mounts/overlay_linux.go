package mounts

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Memory mounts an empty file system in memory of at most so many MiB. Its
// inodes are bounded too: the kernel's default is one for each two pages of all
// memory.
func Memory(path string, mib uint32) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NODEV, fmt.Sprintf("mode=0755,size=%dm,nr_inodes=%d", mib, uint64(mib)*256)); err != nil {
		return fmt.Errorf("mount memory on %s: %w", path, err)
	}
	return nil
}

// overlayOptions follow nothing that a layer says of where else a file's name or
// content were: a layer of whose content nobody vouches can hide and replace
// what is below, and no more.
const overlayOptions = "redirect_dir=nofollow,metacopy=off,index=off,xino=off"

// Overlay mounts, at path, what is mounted at lower with what is written to the
// file system at layer over it (Linux, Documentation/filesystems/overlayfs.rst).
// Both mount points are gone then; overlayfs holds what was there.
func Overlay(lower, layer, path string) error {
	upper, work := layer+"/upper", layer+"/work"
	err := os.Mkdir(upper, 0o755)
	switch {
	case err == nil:
		err = asBelow(lower, upper)
	case errors.Is(err, os.ErrExist): // from an earlier boot
		err = nil
	}
	for _, dir := range []string{work, path} {
		if err == nil {
			err = os.MkdirAll(dir, 0o755)
		}
	}
	if err != nil {
		return fmt.Errorf("make writable layer: %w", err)
	}
	if err := unix.Mount("overlay", path, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,%s", lower, upper, work, overlayOptions)); err != nil {
		return fmt.Errorf("mount overlay on %s: %w", path, err)
	}
	for _, dir := range []string{lower, layer} {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("let go of %s: %w", dir, err)
		}
	}
	return nil
}

// asBelow gives the top of a new layer owner, permissions and time of the folder
// below it, whose place it takes.
func asBelow(lower, upper string) error {
	var st unix.Stat_t
	if err := unix.Stat(lower, &st); err != nil {
		return err
	}
	if err := unix.Chown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(upper, st.Mode&0o7777); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, upper, []unix.Timespec{st.Atim, st.Mtim}, 0)
}
