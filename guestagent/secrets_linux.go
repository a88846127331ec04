package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/sealed"
)

// secretsDir is the folder of delivered secrets, by the descriptor that
// guestinit opened: whatever the root mounts over its path is not written to.
type secretsDir int

// write makes or replaces a file. Nobody sees it half written or with other
// rights than the plan's.
func (dir secretsDir) write(s sealed.SecretFile, content []byte) (err error) {
	part := "." + s.Name // names of a plan begin with no dot
	if err := unix.Unlinkat(int(dir), part, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	fd, err := unix.Openat(int(dir), part, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), part)
	defer func() {
		f.Close()
		if err != nil {
			_ = unix.Unlinkat(int(dir), part, 0)
		}
	}()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := unix.Fchown(fd, int(s.UID), int(s.GID)); err != nil {
		return fmt.Errorf("give it to %d:%d: %w", s.UID, s.GID, err)
	}
	if err := unix.Fchmod(fd, uint32(s.Mode)); err != nil {
		return err
	}
	return unix.Renameat(int(dir), part, int(dir), s.Name)
}
