package health

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// probeSize makes a file system that has no room say so.
const probeSize = 4096

// Writable returns a check that a folder can be written. It leaves nothing there
// and forces nothing to the disk.
func Writable(dir string) func(context.Context) error {
	path := filepath.Join(dir, ".writable")
	return func(context.Context) error {
		err := os.WriteFile(path, make([]byte, probeSize), 0o600)
		os.Remove(path)
		if err != nil {
			return fmt.Errorf("write state folder: %w", err)
		}
		return nil
	}
}
