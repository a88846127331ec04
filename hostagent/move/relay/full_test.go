package relay_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/hostagent/fault"
)

// The target's disk is too small, or fills up in the middle: the guest stays
// where it is, and comes once there is room.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, files(1))
	dst.stop()
	disk := filepath.Join(dst.dir, "state")
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=80m"); err != nil {
		t.Skip("tmpfs can't be mounted: ", err)
	}
	t.Cleanup(func() { dst.stop(); _ = unix.Unmount(disk, unix.MNT_DETACH) })
	dst.start()
	filler := filepath.Join(disk, "filler")
	fill := func() error {
		f, err := os.Create(filler)
		if err != nil {
			return err
		}
		defer f.Close()
		for b := make([]byte, 4096); err == nil; {
			b[0]++
			_, err = f.Write(b)
		}
		if !errors.Is(err, unix.ENOSPC) {
			return err
		}
		return nil
	}
	full := false
	m := over(src, dst, &wire{onCall: func(name string) error {
		if name == "target.Write" && !full {
			full = true
			return fill()
		}
		return nil
	}})
	if _, err := m.Run(t.Context()); fault.As(err).Code != fault.Storage {
		t.Errorf("the disk fills up: %v", err)
	}
	safe(t, src, dst, files(1))
	if _, err := newMove(src, dst).Run(t.Context()); fault.As(err).Code != fault.Unfit {
		t.Errorf("the disk is full: %v", err)
	}
	safe(t, src, dst, files(1))
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if _, err := newMove(src, dst).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	moved(t, src, dst, files(1))
}
