package rootdisk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/rootdisk/luks2"
	"github.com/secexec/secexec/secret"
)

func TestGrow(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk.img")
	key := secret.Random(64)
	if _, err := Create(t.Context(), path, Options{Size: 8 * mebi, Passphrase: key}); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	// As QEMU holds a disk: a shared lock on one byte.
	user := open()
	lock := unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}
	if err := unix.FcntlFlock(user.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
	f := open()
	defer f.Close()
	if _, err := Grow(f, 64*mebi); !errors.Is(err, ErrBusy) || size() != 24*mebi {
		t.Errorf("a disk in use: %v, %d bytes", err, size())
	}
	user.Close()
	if payload, err := Grow(f, 64*mebi); err != nil || payload != 48*mebi || size() != 64*mebi {
		t.Errorf("%v: %d bytes of payload in %d", err, payload, size())
	}
	if _, err := Grow(f, 63*mebi); !errors.Is(err, ErrOptions) || size() != 64*mebi {
		t.Errorf("a smaller size: %v, %d bytes", err, size())
	}
	// Grown in an earlier run that could not write the header.
	if err := os.Truncate(path, 80*mebi); err != nil {
		t.Fatal(err)
	}
	if payload, err := Grow(f, 80*mebi); err != nil || payload != 64*mebi {
		t.Errorf("%v: %d bytes of payload", err, payload)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if n, err := Open(t.Context(), f, plain, key, nil); err != nil || n != 64*mebi {
		t.Errorf("%v: opens to %d bytes", err, n)
	}
	if _, err := f.WriteAt(make([]byte, 32<<10), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Grow(f, 90*mebi); !errors.Is(err, luks2.ErrHeader) || size() != 80*mebi {
		t.Errorf("no header: %v, %d bytes", err, size())
	}
}
