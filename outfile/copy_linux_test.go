package outfile

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestCopyData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const offset, block = 1 << 20, 4096
	for name, c := range map[string]struct {
		size int64
		data map[int64][]byte
	}{
		"nothing":       {0, nil},
		"a hole":        {8 << 20, nil},
		"data":          {5000, map[int64][]byte{0: bytes.Repeat([]byte{1}, 5000)}},
		"holes between": {300<<20 + 17, map[int64][]byte{block: bytes.Repeat([]byte{2}, block), 200 << 20: []byte("x"), 300<<20 + 16: []byte("y")}},
	} {
		from, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		to, err := os.Create(filepath.Join(dir, name+" copy"))
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		defer to.Close()
		if err := errors.Join(from.Truncate(c.size), to.Truncate(offset+c.size+1)); err != nil {
			t.Fatal(err)
		}
		for at, b := range c.data {
			if _, err := from.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := CopyData(t.Context(), to, offset, from); err != nil || n != c.size {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		for at, b := range c.data {
			got := make([]byte, len(b)+1)
			if _, err := to.ReadAt(got, offset+at); err != nil || !bytes.Equal(got[:len(b)], b) || got[len(b)] != 0 {
				t.Errorf("%s: at %d: %v", name, at, err)
			}
		}
		var st syscall.Stat_t
		if err := syscall.Fstat(int(to.Fd()), &st); err != nil || st.Blocks*512 > 1<<20 || st.Size != offset+c.size+1 {
			t.Errorf("%s: the copy takes %d bytes, %v", name, st.Blocks*512, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := CopyData(ctx, to, 0, from); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
