// Package kmod loads kernel modules from the initrd.
package kmod

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Load loads one module. A module that is loaded already is no error; an
// optional one may also be refused by the CPU (ENODEV).
func Load(path string, optional bool) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open module: %w", err)
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err == nil || errors.Is(err, unix.EEXIST) || optional && errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("load module %s: %w", path, err)
}
