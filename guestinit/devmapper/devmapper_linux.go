package devmapper

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/secret"
)

// Control is the device-mapper's control node, in devtmpfs once dm-mod is loaded.
const Control = "/dev/mapper/control"

// ioctl requests: _IOWR(0xfd, n, struct dm_ioctl).
const (
	devCreate  = 3<<30 | headerSize<<16 | 0xfd<<8 | 3
	devRemove  = 3<<30 | headerSize<<16 | 0xfd<<8 | 4
	devSuspend = 3<<30 | headerSize<<16 | 0xfd<<8 | 6 // without flagSuspend: resume
	tableLoad  = 3<<30 | headerSize<<16 | 0xfd<<8 | 9
	tableState = 3<<30 | headerSize<<16 | 0xfd<<8 | 12
)

// Create makes and activates a device and returns its number.
func Create(name string, readOnly bool, t Target) (major, minor uint32, err error) {
	control, err := os.OpenFile(Control, os.O_RDWR, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("open device-mapper: %w", err)
	}
	defer control.Close()
	order := binary.NativeEndian
	table, err := tableMessage(order, name, readOnly, t)
	if err != nil {
		return 0, 0, err
	}
	if err := ioctl(control, devCreate, message(order, name, 0, 0)); err != nil {
		return 0, 0, fmt.Errorf("create device %s: %w", name, err)
	}
	if err := ioctl(control, tableLoad, table); err != nil {
		remove(control, name)
		return 0, 0, fmt.Errorf("load table of %s: %w", name, err)
	}
	if v, ok := t.(Verifier); ok {
		if err := verify(control, name, v); err != nil {
			remove(control, name)
			return 0, 0, fmt.Errorf("verify device %s: %w", name, err)
		}
	}
	resume := message(order, name, 0, 0)
	if err := ioctl(control, devSuspend, resume); err != nil {
		remove(control, name)
		return 0, 0, fmt.Errorf("activate device %s: %w", name, err)
	}
	major, minor = device(order, resume)
	return major, minor, nil
}

// CreateCrypt is Create for a dm-crypt target. The key goes through this
// thread's keyring, from which it is taken again at once: dm-crypt has its own
// copy then, and `dmsetup table --showkeys` shows the key's description alone.
// The caller keeps the goroutine on its thread and owns key.
func CreateCrypt(name string, readOnly bool, c Crypt, key secret.Bytes) (major, minor uint32, err error) {
	id, err := unix.AddKey("logon", c.KeyDescription, key, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return 0, 0, fmt.Errorf("add key to keyring: %w", err)
	}
	defer func() {
		if _, e := unix.KeyctlInt(unix.KEYCTL_INVALIDATE, id, 0, 0, 0); e != nil && err == nil {
			err = fmt.Errorf("take key from keyring: %w", e)
		}
	}()
	return Create(name, readOnly, c)
}

// verify asks the kernel what it loaded.
func verify(control *os.File, name string, v Verifier) error {
	var text [2]string
	for i, flags := range []uint32{flagStatusTable, 0} {
		b := message(binary.NativeEndian, name, flags|flagInactive, 4<<10)
		if err := ioctl(control, tableState, b); err != nil {
			return err
		}
		var err error
		if text[i], err = statusText(binary.NativeEndian, b); err != nil {
			return err
		}
	}
	return v.Verify(text[0], text[1])
}

func remove(control *os.File, name string) {
	_ = ioctl(control, devRemove, message(binary.NativeEndian, name, 0, 0))
}

func ioctl(f *os.File, request uintptr, b []byte) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return errno
	}
	return nil
}
