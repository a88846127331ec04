package rootdisk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/secexec/secexec/e2fs"
	"github.com/secexec/secexec/template"
)

// noise makes a file of bytes as a fresh key gives them: no zeros to rely on.
func noise(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "noise")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, mebi)
	for at := int64(0); at < size; at += mebi {
		_, _ = r.Read(b)
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// On a volume of noise the template is a whole file system: nothing that e2fsck
// reads is missing from it. With 128 MiB and 256 MiB the last group is full and
// free, so that its bitmap of zeros counts.
func TestEmptyOnNoise(t *testing.T) {
	t.Parallel()
	sizes := []int64{4, 5, 100, 128, 129, 256}
	if os.Getenv("SECEXEC_LONG") != "" {
		sizes = append(sizes, 1024, 2048+17, 4096)
	}
	for _, size := range sizes {
		f := noise(t, size*mebi)
		text, err := Empty(t.Context(), t.TempDir(), size*mebi, [16]byte{1})
		if err != nil {
			t.Fatal(err)
		}
		p, err := template.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if p.Size != uint64(size*mebi) || len(text) > 256<<10 {
			t.Errorf("%d MiB: template of %d bytes for %d", size, len(text), p.Size)
		}
		if err := p.Apply(f); err != nil {
			t.Fatal(err)
		}
		if out, err := run(t.Context(), f, nil, "e2fsck", "-fn", e2fs.Image); err != nil {
			t.Errorf("%d MiB: %v\n%s", size, err, out)
		}
		// With all inodes and bitmaps in use it is still whole.
		var commands strings.Builder
		for i := range 40 {
			commands.WriteString("mkdir /d" + string(rune('a'+i%26)) + string(rune('a'+i/26)) + "\n")
		}
		if out, err := run(t.Context(), f, []byte(commands.String()), "debugfs", "-w", "-f", "-", e2fs.Image); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if out, err := run(t.Context(), f, nil, "e2fsck", "-fn", e2fs.Image); err != nil {
			t.Errorf("%d MiB, written to: %v\n%s", size, err, out)
		}
	}
}

// What the template leaves out is missed: e2fsck would notice.
func TestEmptyNeedsEachRun(t *testing.T) {
	t.Parallel()
	const size = 256 * mebi
	text, err := Empty(t.Context(), t.TempDir(), size, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	p, err := template.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	f := noise(t, size)
	if err := p.Apply(f); err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Runs[1:] { // the first one has the superblock
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, len(r.Data)), int64(r.Offset)); err != nil {
			t.Fatal(err)
		}
		if _, err := run(t.Context(), f, nil, "e2fsck", "-fn", e2fs.Image); err == nil {
			t.Errorf("%d bytes at %d are not needed", len(r.Data), r.Offset)
		}
		if _, err := f.WriteAt(r.Data, int64(r.Offset)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEmptyBounds(t *testing.T) {
	t.Parallel()
	work := t.TempDir()
	for _, size := range []int64{0, mebi, 4*mebi + 1, maxContent + mebi} {
		if _, err := Empty(t.Context(), work, size, [16]byte{}); !errors.Is(err, ErrOptions) {
			t.Errorf("%d: %v", size, err)
		}
	}
	one, err := Empty(t.Context(), work, maxContent, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if len(one) > template.MaxEncoded/2 {
		t.Errorf("the largest template has %d bytes", len(one))
	}
	if again, err := Empty(t.Context(), work, maxContent, [16]byte{1}); err != nil || !bytes.Equal(one, again) {
		t.Errorf("another build gives other bytes: %v", err)
	}
	left, err := os.ReadDir(work)
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left: %v", left, err)
	}
}
