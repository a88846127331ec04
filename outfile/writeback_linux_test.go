package outfile

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A file holds what was written to it whichever way each write took: whole pages
// directly, the rest through the page cache.
func TestDirectWrites(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "out")
	f, err := Create(path, 0o600, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	f.ample = 3 * 4096
	want := make([]byte, 64*4096+5)
	rand.NewChaCha8([32]byte{}).Read(want)
	var writers sync.WaitGroup
	for at := 0; at < len(want); at += 4096 {
		writers.Go(func() {
			b := make([]byte, 8192)
			b = b[at/4096%3:] // two thirds of them on no page's start
			if n, err := f.WriteAt(b[:copy(b[:4096], want[at:])], int64(at)); err != nil || n == 0 {
				t.Errorf("write at %d: %d bytes, %v", at, n, err)
			}
		})
	}
	writers.Wait()
	direct := f.openDirect()
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes differ, %v", len(got), err)
	}
	if direct == nil {
		t.Skip("this file system has no direct writes")
	}
	if err := direct.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("still open after Commit: %v", err)
	}
}
