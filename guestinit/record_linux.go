package main

import (
	"os"

	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/secret"
)

// readRecord takes the sealed record out of the initramfs.
func readRecord() (*sealed.Record, error) {
	f, err := os.OpenFile(recordPath, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw := make(secret.Bytes, sealed.MaxSize+1)
	defer raw.Wipe()
	n := 0
	for n < len(raw) {
		got, err := f.Read(raw[n:])
		if got == 0 || err != nil {
			break
		}
		n += got
	}
	record, err := sealed.Unmarshal(raw[:n])
	if err != nil {
		return nil, err
	}
	// The initramfs keeps files in pages of its own: wipe them, then let go.
	if _, err := f.WriteAt(make([]byte, n), 0); err != nil {
		return nil, err
	}
	return record, os.Remove(recordPath)
}
