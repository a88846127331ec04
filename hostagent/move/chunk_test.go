package move

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/hostagent/fault"
)

// disk makes a file on a disk.
func disk(t *testing.T, size int64, extents map[int64][]byte) *Disk {
	t.Helper()
	dir := t.TempDir()
	d, err := OpenDisk(dir, "f", true, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	for at, b := range extents {
		if _, err := d.File.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// noise is data that repeats for a seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

// transfer brings dst to what src is, and returns how many chunks that took.
func transfer(t *testing.T, src, dst *Disk) (moved int, sum [32]byte) {
	t.Helper()
	total := NewSum()
	for offset := int64(0); ; {
		s, err := Scan(t.Context(), src, offset)
		if err != nil {
			t.Fatal(err)
		}
		want, err := s.Want(t.Context(), dst, offset)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range want {
			at := s.Start + int64(n)*ChunkSize
			data, err := ReadChunk(src, at)
			if err == nil {
				err = WriteChunk(dst, at, data, s.Digests[n])
			}
			if err != nil {
				t.Fatal(err)
			}
			moved++
		}
		total.Add(offset, s)
		if s.End {
			return moved, total.Digest(src.Size())
		}
		offset = s.Next
	}
}

func sumOf(t *testing.T, d *Disk) [32]byte {
	t.Helper()
	s := NewSum()
	for {
		offset, end := s.Next()
		if end {
			return s.Digest(d.Size())
		}
		stretch, err := Scan(t.Context(), d, offset)
		if err != nil {
			t.Fatal(err)
		}
		s.Add(offset, stretch)
	}
}

// Files of many shapes arrive as they are, whatever was there before; what is
// there already is not moved again; both ends' digests agree.
func TestTransfer(t *testing.T) {
	t.Parallel()
	const MiB = 1 << 20
	for name, c := range map[string]struct {
		size   int64
		is     map[int64][]byte
		before map[int64][]byte // at the target
		want   int              // chunks
	}{
		"a byte":                    {1, map[int64][]byte{0: {7}}, nil, 1},
		"a zero byte":               {1, map[int64][]byte{0: {0}}, nil, 0},
		"a chunk":                   {MiB, map[int64][]byte{0: noise(1, MiB)}, nil, 1},
		"a chunk and a byte":        {MiB + 1, map[int64][]byte{0: noise(1, MiB+1)}, nil, 2},
		"all hole":                  {200 * MiB, nil, nil, 0},
		"zeros written":             {2 * MiB, map[int64][]byte{0: make([]byte, 2*MiB)}, nil, 0},
		"more than a window":        {17*MiB + 5, spread(17), nil, 17},
		"holes between":             {300 * MiB, map[int64][]byte{5*MiB + 17: noise(3, 9), 200 * MiB: noise(4, MiB+1), 299 * MiB: noise(5, MiB)}, nil, 4},
		"hole at the end":           {100*MiB + 3, map[int64][]byte{0: noise(6, MiB)}, nil, 1},
		"data over what is zero":    {100*MiB + 3, map[int64][]byte{50 * MiB: noise(7, 5)}, map[int64][]byte{0: noise(8, MiB+9), 50*MiB + 7: {1}, 98 * MiB: noise(9, 2*MiB+3)}, 1},
		"zeros over data":           {2 * MiB, map[int64][]byte{0: make([]byte, 2*MiB)}, map[int64][]byte{0: noise(8, 2*MiB)}, 0},
		"half of it there":          {2 * MiB, map[int64][]byte{0: noise(9, 2*MiB)}, map[int64][]byte{0: noise(9, MiB)}, 1},
		"a bit wrong":               {2 * MiB, map[int64][]byte{0: noise(9, 2*MiB)}, map[int64][]byte{0: flipped(noise(9, 2*MiB), MiB+11)}, 1},
		"nothing there but a hole":  {4 * MiB, map[int64][]byte{MiB: noise(9, 10)}, nil, 1},
		"all of it there":           {2*MiB - 1, map[int64][]byte{0: noise(9, 2*MiB-1)}, map[int64][]byte{0: noise(9, 2*MiB-1)}, 0},
		"data in the last hole":     {8 * MiB, map[int64][]byte{0: {1}}, map[int64][]byte{0: {1}, 8*MiB - 1: {1}}, 0},
		"data in the middle window": {90 * MiB, map[int64][]byte{0: {1}, 80 * MiB: {2}}, map[int64][]byte{0: {1}, 70*MiB + 1: {9}, 80 * MiB: {2}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := disk(t, c.size, c.is), disk(t, c.size, c.before)
			moved, sum := transfer(t, src, dst)
			if moved != c.want {
				t.Errorf("%d chunks moved, wants %d", moved, c.want)
			}
			same(t, src, dst)
			if got := sumOf(t, dst); got != sum {
				t.Errorf("digests %x and %x", got[:4], sum[:4])
			}
			if again, _ := transfer(t, src, dst); again != 0 {
				t.Errorf("%d chunks moved again", again)
			}
			if dst.Allocated() > src.Allocated()+256<<10 {
				t.Errorf("takes %d bytes, the source %d", dst.Allocated(), src.Allocated())
			}
		})
	}
}

// spread is a byte in each of so many chunks.
func spread(chunks int64) map[int64][]byte {
	out := make(map[int64][]byte)
	for i := range chunks {
		out[i*ChunkSize+i] = []byte{byte(i + 1)}
	}
	return out
}

func flipped(b []byte, at int) []byte { b[at] ^= 1; return b }

func same(t *testing.T, a, b *Disk) {
	t.Helper()
	for at := int64(0); at < a.Size(); at += ChunkSize {
		x, err := ReadChunk(a, at)
		y, err2 := ReadChunk(b, at)
		if err := errors.Join(err, err2); err != nil || !bytes.Equal(x, y) {
			t.Fatalf("files differ at %d: %v", at, err)
		}
	}
}

// The digest is a format that two versions must agree on.
func TestSumIsPinned(t *testing.T) {
	t.Parallel()
	d := disk(t, 3<<20+1, map[int64][]byte{1 << 20: []byte("hello")})
	one := sumOf(t, d)
	all := SumAll([]string{"boot.seimg", "root.img"}, [][32]byte{one, one})
	if got := hex.EncodeToString(one[:8]) + " " + hex.EncodeToString(all[:8]); got != "228eae8fa24c15e7 e1c95b8876b8d295" {
		t.Errorf("digests %s", got)
	}
	if one == sumOf(t, disk(t, 3<<20+2, map[int64][]byte{1 << 20: []byte("hello")})) || one == sumOf(t, disk(t, 3<<20+1, map[int64][]byte{2 << 20: []byte("hello")})) {
		t.Error("files that differ have one digest")
	}
}

// A peer's numbers are checked before anything is done with them.
func TestHostileNumbers(t *testing.T) {
	t.Parallel()
	const size = 2<<20 + 7
	d := disk(t, size, map[int64][]byte{0: noise(1, size)})
	before := sumOf(t, d)
	for _, offset := range []int64{-1, 1, ChunkSize - 1, -ChunkSize, 3 << 20, 1 << 62} {
		if _, err := Scan(t.Context(), d, offset); fault.As(err).Code != fault.BadRequest {
			t.Errorf("scan at %d: %v", offset, err)
		}
		if _, err := ReadChunk(d, offset); fault.As(err).Code != fault.BadRequest {
			t.Errorf("read at %d: %v", offset, err)
		}
		data := noise(2, ChunkSize)
		if err := WriteChunk(d, offset, data, digest(data)); fault.As(err).Code != fault.BadRequest {
			t.Errorf("write at %d: %v", offset, err)
		}
	}
	for _, c := range []struct {
		at, n int64
	}{{0, 0}, {0, 1}, {0, ChunkSize + 1}, {2 << 20, ChunkSize}, {2 << 20, 8}, {2 << 20, 6}} {
		data := noise(3, int(c.n))
		if err := WriteChunk(d, c.at, data, sha256.Sum256(data)); fault.As(err).Code != fault.BadRequest {
			t.Errorf("%d bytes at %d: %v", c.n, c.at, err)
		}
	}
	if err := WriteChunk(d, 0, noise(3, ChunkSize), Digest{1}); fault.As(err).Code != fault.Altered {
		t.Errorf("a damaged chunk: %v", err)
	}
	chunk := Digest{1}
	for _, s := range []Stretch{
		{Start: 1, Next: 1},
		{Start: -ChunkSize, Next: 0, Digests: []Digest{chunk}},
		{Start: 3 << 20, Next: 4 << 20, Digests: []Digest{chunk}},
		{Start: 0, Next: size, End: true, Digests: make([]Digest, 4)},
		{Start: 0, Next: size, Digests: make([]Digest, Window+1)},
		{Start: 0, Next: 2 << 20, Digests: []Digest{chunk}},
		{Start: 0, Next: 0},
		{Start: 1 << 62, Next: 1<<62 + ChunkSize, Digests: []Digest{chunk}},
		{Start: 0, Next: 1 << 20, End: true, Digests: []Digest{chunk}},
	} {
		if _, err := s.Want(t.Context(), d, 0); fault.As(err).Code != fault.BadRequest {
			t.Errorf("stretch %+v: %v", s, err)
		}
	}
	if sumOf(t, d) != before {
		t.Error("a refused call changed the file")
	}
	if _, err := OpenDisk(t.TempDir(), "../f", true, 1); err == nil {
		t.Error("a file outside of the folder was opened")
	}
}

// Links and pipes in a guest's folder are not followed.
func TestOddFiles(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(outside, []byte("secret"), 0o600), os.Symlink(outside, filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600), os.Mkdir(filepath.Join(dir, "folder"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "pipe", "folder"} {
		for _, write := range []bool{false, true} {
			if d, err := OpenDisk(dir, name, write, 3); err == nil {
				t.Errorf("%s was opened, to write %v", name, write)
				d.Close()
			}
		}
	}
	if text, _ := os.ReadFile(outside); string(text) != "secret" {
		t.Errorf("the file outside is %q", text)
	}
}

// A call whose client is gone ends.
func TestScanEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d := disk(t, 4<<20, map[int64][]byte{0: noise(1, 4<<20)})
	if _, err := Scan(ctx, d, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("scan: %v", err)
	}
	s := Stretch{Next: 4 << 20, End: true, Digests: make([]Digest, 4)}
	if _, err := s.Want(ctx, d, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("want: %v", err)
	}
}

// What passes Check is a stretch that moves forward within the file.
func FuzzStretch(f *testing.F) {
	f.Add(int64(10<<20), int64(0), int64(0), uint8(10), int64(10<<20), true)
	f.Add(int64(100<<20+1), int64(1<<20), int64(3<<20), uint8(64), int64(67<<20), false)
	f.Add(int64(1), int64(0), int64(0), uint8(0), int64(1), true)
	f.Fuzz(func(t *testing.T, size, offset, start int64, n uint8, next int64, end bool) {
		if size < 1 || size > MaxSize {
			return
		}
		s := Stretch{Start: start, Next: next, End: end, Digests: make([]Digest, n)}
		if s.Check(offset, size) != nil {
			return
		}
		if offset < 0 || start < offset || start > size || next > size || next < start || int(n) > Window {
			t.Errorf("%d bytes from %d: start %d, %d chunks, next %d", size, offset, start, n, next)
		}
		if n > 0 && start+int64(n-1)*ChunkSize >= size {
			t.Errorf("chunk %d of a file of %d bytes", n, size)
		}
		if !end && next <= offset || end && next != size {
			t.Errorf("goes on at %d after %d, end %v", next, offset, end)
		}
	})
}
