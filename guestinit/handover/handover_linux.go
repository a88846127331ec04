// Package handover turns the mounted root into / and becomes its init.
package handover

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Errors of CheckInit.
var (
	ErrNoInit  = errors.New("no such program in the root")
	ErrBadInit = errors.New("not an executable file in the root")
)

// CheckInit makes sure, before anything is undone, that a path leads to an
// executable file within the root. Symbolic links count as they will after the
// hand-over: from the root's own /.
func CheckInit(root, init string) error {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open root: %w", err)
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, init, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNoInit, init, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at %s: %w", init, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
		return fmt.Errorf("%w: %s", ErrBadInit, init)
	}
	return nil
}

// SwitchRoot moves mounts into the root, empties the initramfs and makes the
// root /. The initramfs can't be pivoted away: the root is moved over it.
func SwitchRoot(root string, moved []string) error {
	for _, path := range moved {
		if err := os.MkdirAll(root+path, 0o755); err != nil && !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("make mount point: %w", err)
		}
		if err := unix.Mount(path, root+path, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s into the root: %w", path, err)
		}
	}
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	old, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open initramfs: %w", err)
	}
	if err := Empty(old); err != nil {
		return fmt.Errorf("empty initramfs: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return unix.Chdir("/")
}

// Empty deletes all below an open folder and closes it. It works by descriptor,
// follows no link and never leaves the folder's own file system, so that no
// mounted root can lose a file to it.
func Empty(dir int) error {
	f := os.NewFile(uintptr(dir), "folder")
	defer f.Close()
	var top unix.Stat_t
	if err := unix.Fstat(dir, &top); err != nil {
		return err
	}
	return empty(f, top.Dev)
}

func empty(f *os.File, dev uint64) error {
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(int(f.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Dev != dev {
			continue // a mount point
		}
		flags := 0
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
			sub, err := unix.Openat(int(f.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			subFile := os.NewFile(uintptr(sub), name)
			err = empty(subFile, dev)
			subFile.Close()
			if err != nil {
				return err
			}
		}
		// A folder that holds a mount point stays: EBUSY or ENOTEMPTY.
		if err := unix.Unlinkat(int(f.Fd()), name, flags); err != nil && flags == 0 {
			return err
		}
	}
	return nil
}

// Env is the environment that the root's init gets.
var Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=linux", "HOME=/"}

// Exec becomes the root's init, with Env and further variables. It returns only
// on failure.
func Exec(init string, env ...string) error {
	return fmt.Errorf("exec %s: %w", init, syscall.Exec(init, []string{init}, append(slices.Clone(Env), env...)))
}
