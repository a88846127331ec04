package bootdisk

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// sparse is a disk with a byte here and there.
type sparse map[int64]byte

func (s sparse) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	for where, v := range s {
		if where >= at && where < at+int64(len(b)) {
			b[where-at] = v
		}
	}
	return len(b), nil
}

// QEMU itself finds nothing wrong with the images, and reads them back.
func TestPremiseQEMUReadsQCOW2(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed (Debian package qemu-utils)")
	}
	noisy := make([]byte, 300<<10+512)
	rand.NewChaCha8([32]byte{1}).Read(noisy)
	for name, c := range map[string]struct {
		raw interface {
			ReadAt([]byte, int64) (int, error)
		}
		size int64
	}{
		"noise, ends within a cluster": {bytes.NewReader(noisy), int64(len(noisy))},
		"nothing but zeros":            {sparse{}, 1 << 20},
		"two L2 tables":                {sparse{0: 1, 512<<20 - 1: 2, 512 << 20: 3}, 513 << 20},
	} {
		dir := t.TempDir()
		path, back := filepath.Join(dir, "x.qcow2"), filepath.Join(dir, "x.raw")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := ToQCOW2(t.Context(), f, c.raw, c.size); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if out, err := exec.Command("qemu-img", "check", "-f", "qcow2", path).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("No errors were found")) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if out, err := exec.Command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, back).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		got, err := os.Open(back)
		if err != nil {
			t.Fatal(err)
		}
		defer got.Close()
		if info, _ := got.Stat(); info.Size() != c.size {
			t.Errorf("%s: %d bytes, wants %d", name, info.Size(), c.size)
		}
		places := []int64{0, 100 << 10, c.size - 512}
		if s, ok := c.raw.(sparse); ok {
			for at := range s {
				places = append(places, at&^511)
			}
		}
		for _, at := range places {
			a, b := make([]byte, 512), make([]byte, 512)
			c.raw.ReadAt(a, at)
			if _, err := got.ReadAt(b, at); err != nil || !bytes.Equal(a, b) {
				t.Errorf("%s: other bytes at %d: %v", name, at, err)
			}
		}
	}
}

// Past 2 GiB there is more than one refcount block.
func TestQCOW2CountsItself(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{0, 1, qcowPerRefs - 5, qcowPerRefs - 4, qcowPerRefs, 3 * qcowPerRefs} {
		q, err := planQCOW2(t.Context(), full(n), (n+1)<<qcowBits)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(q.data)) != n || q.end > (q.l1-q.refBlocks)*qcowPerRefs || q.l1-q.refBlocks > (q.refBlocks-q.refTable)*qcowPerTable {
			t.Errorf("%d clusters: %d found, %+v", n, len(q.data), [...]int64{q.refTable, q.refBlocks, q.l1, q.l2, q.first, q.end})
		}
	}
}

// full is a disk whose first n clusters hold something.
type full int64

func (n full) ReadAt(b []byte, at int64) (int, error) {
	b[0] = 0
	if at < int64(n)<<qcowBits {
		b[0] = 1
	}
	return len(b), nil
}

func TestCreateQCOW2(t *testing.T) {
	t.Parallel()
	needTools(t)
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed (Debian package qemu-utils)")
	}
	dir := t.TempDir()
	path, back := filepath.Join(dir, "disk.qcow2"), filepath.Join(dir, "disk.raw")
	image := noise(t, "a", 1<<20)
	table, err := Create(t.Context(), path, Options{Images: []string{image}, Volumes: []Volume{{NewGUID(), "root", noise(t, "root", 1<<20)}}, QCOW2: true})
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left %v", left)
	}
	if out, err := exec.Command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, back).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	disk := must(os.ReadFile(back))
	loads(t, disk, image, image)
	if info, err := os.Stat(path); err != nil || info.Size() > table.Size/2 {
		t.Errorf("%v %v for a disk of %d bytes with 2 MiB of content", info.Size(), err, table.Size)
	}
}
