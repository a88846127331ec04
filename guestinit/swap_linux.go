package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/sealed"
)

// swapOn maps the swap space with a key of this boot and gives it to the kernel.
// The host is told nothing of which pages are free: dm-crypt passes no discards.
func swapOn(v *sealed.Volume) error {
	if v == nil {
		return nil
	}
	device, err := unlock(v, "swap", dataFailures)
	if err != nil {
		return err
	}
	header, err := swapHeader(binary.NativeEndian, v.Size, v.ID)
	if err == nil {
		err = onDevice(device, func(w io.WriterAt) error {
			_, err := w.WriteAt(header, 0)
			return err
		})
	}
	if err == nil {
		err = swapon(device)
	}
	if err != nil {
		return failSwap.because(err)
	}
	return nil
}

func swapon(device string) error {
	path, err := unix.BytePtrFromString(device)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
		return fmt.Errorf("swap on %s: %w", device, errno)
	}
	return nil
}
