package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/template"
)

// templatesDir is where the initrd has the file systems of fresh volumes.
const templatesDir = "/templates/"

// freshKey makes the key of a volume that lives for one boot: the kernel's
// generator gives it and waits until it is seeded. Nobody else ever has it.
func freshKey() (secret.Bytes, error) {
	key := make(secret.Bytes, sealed.KeySize)
	for n := 0; n < len(key); {
		got, err := unix.Getrandom(key[n:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			key.Wipe()
			return nil, fmt.Errorf("make key: %w", err)
		}
		n += got
	}
	return key, nil
}

// writeEmpty writes a fresh volume's empty file system to its mapping, which
// reads as noise.
func writeEmpty(v *sealed.Volume, device string) error {
	f, err := os.Open(templatesDir + v.Template)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > template.MaxEncoded {
		return fmt.Errorf("%w: %d bytes", template.ErrInvalid, info.Size())
	}
	text := make([]byte, info.Size())
	if _, err := io.ReadFull(f, text); err != nil {
		return err
	}
	t, err := template.Parse(text)
	if err != nil {
		return err
	}
	if t.Size != v.Size {
		return fmt.Errorf("%w: it is for %d bytes, the volume has %d", template.ErrInvalid, t.Size, v.Size)
	}
	return onDevice(device, t.Apply)
}

// onDevice writes to a mapping and waits until it is written.
func onDevice(device string, write func(io.WriterAt) error) error {
	d, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := write(d); err != nil {
		return err
	}
	return d.Sync()
}
