package bootdisk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/secexec/secexec/e2fs"
)

// noise writes a file of n bytes: pages of random bytes, each seventh of zeros,
// which becomes a hole in the boot partition.
func noise(t *testing.T, name string, n int) string {
	t.Helper()
	r := rand.NewChaCha8([32]byte{byte(n)})
	data := make([]byte, n)
	for page := 0; page*fsBlock < n; page++ {
		if page%7 != 3 {
			r.Read(data[page*fsBlock : min(n, (page+1)*fsBlock)])
		}
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load does what firmware does with a program.
func load(t *testing.T, disk []byte, p *Program) []byte {
	t.Helper()
	if p == nil || len(p.Loads) != 1 || p.Loads[0].Addr != entryAddr || p.PSW != entryPSW {
		t.Fatalf("program %v", p)
	}
	var mem []byte
	for _, r := range p.Loads[0].Runs {
		mem = append(mem, disk[r.Block*BlockSize:(r.Block+r.Blocks)*BlockSize]...)
	}
	return mem
}

// loads wants that each slot, from 0 on, loads the image in a file.
func loads(t *testing.T, disk []byte, images ...string) {
	t.Helper()
	slots, err := ReadRecord(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	for slot, path := range images {
		want := must(os.ReadFile(path))
		mem := load(t, disk, slots[slot])
		if n := len(want) - entryAddr; len(mem) < n || len(mem) >= n+BlockSize || !bytes.Equal(mem[:n], want[entryAddr:]) {
			t.Errorf("slot %d loads %d bytes that are not the %d of the image", slot, len(mem), n)
		}
	}
	if slots[len(images)] != nil {
		t.Error("a slot too many")
	}
}

func needTools(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"mke2fs", "debugfs", "e2fsck"} {
		if _, err := e2fs.Find(tool); err != nil {
			t.Skip(err)
		}
	}
}

func TestCreate(t *testing.T) {
	t.Parallel()
	needTools(t)
	images := []string{noise(t, "a", 3<<20+1234), noise(t, "b", 1<<20)}
	volumes := []Volume{{NewGUID(), "root", noise(t, "root", 2<<20)}, {NewGUID(), "data", noise(t, "data", 1<<20+512)}}
	path := filepath.Join(t.TempDir(), "disk.raw")
	table, err := Create(t.Context(), path, Options{Images: images, Volumes: volumes})
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadTable(bytes.NewReader(disk), int64(len(disk)))
	if err != nil || !reflect.DeepEqual(got, table) || len(got.Partitions) != 3 {
		t.Errorf("table %v %v, wants %v", got, err, table)
	}
	loads(t, disk, images[0], images[0], images[1])
	for i, v := range volumes {
		p, want := table.Partitions[1+i], must(os.ReadFile(v.Path))
		if p.ID != v.ID || p.Name != v.Name || p.Start%mebi != 0 || !bytes.Equal(disk[p.Start:p.Start+int64(len(want))], want) {
			t.Errorf("partition %v is not volume %v", p, v)
		}
	}
	if _, err := Create(t.Context(), path, Options{Images: images}); err == nil {
		t.Error("an existing disk was replaced")
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestCreateRefusals(t *testing.T) {
	t.Parallel()
	needTools(t)
	image := noise(t, "a", 200<<10)
	id := NewGUID()
	root := Volume{id, "root", noise(t, "root", 1<<20)}
	var many []string
	for range MaxEntries + 1 {
		many = append(many, image)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	huge := filepath.Join(t.TempDir(), "huge")
	if err := errors.Join(os.WriteFile(huge, nil, 0o600), os.Truncate(huge, maxImage+1)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o    Options
		want error
	}{
		"no image":             {Options{Volumes: []Volume{root}}, ErrOptions},
		"too many images":      {Options{Images: many}, ErrOptions},
		"image missing":        {Options{Images: []string{image + "x"}}, os.ErrNotExist},
		"image is a folder":    {Options{Images: []string{t.TempDir()}}, nil},
		"image is empty":       {Options{Images: []string{empty}}, ErrOptions},
		"image beyond 2 GiB":   {Options{Images: []string{huge}}, ErrOptions},
		"volume is empty":      {Options{Images: []string{image}, Volumes: []Volume{{id, "x", empty}}}, ErrOptions},
		"volume without GUID":  {Options{Images: []string{image}, Volumes: []Volume{{GUID{}, "x", root.Path}}}, ErrOptions},
		"two of one GUID":      {Options{Images: []string{image}, Volumes: []Volume{root, root}}, ErrOptions},
		"odd boot partition":   {Options{Images: []string{image}, BootSize: 5<<20 + 1}, ErrOptions},
		"small boot partition": {Options{Images: []string{noise(t, "x", 6<<20)}, BootSize: 4 << 20}, nil},
	} {
		dir := t.TempDir()
		_, err := Create(t.Context(), filepath.Join(dir, "disk"), c.o)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, wants %v", name, err, c.want)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// A new image three times over: default and previous move on, the third entry
// stays, and the two places of the record take turns.
func TestReplace(t *testing.T) {
	t.Parallel()
	needTools(t)
	a, b, c := noise(t, "a", 1<<20), noise(t, "b", 2<<20), noise(t, "c", 1<<20+4096)
	path := filepath.Join(t.TempDir(), "disk.raw")
	if _, err := Create(t.Context(), path, Options{Images: []string{a, b, c}}); err != nil {
		t.Fatal(err)
	}
	current, previous := a, b
	for n := range 3 {
		next := noise(t, "next", 2<<20+n*5000)
		if err := Replace(t.Context(), path, next); err != nil {
			t.Fatal(err)
		}
		previous, current = current, next
		disk := must(os.ReadFile(path))
		loads(t, disk, current, current, previous, c)
		if at := disk[16+6 : 16+8]; (at[1] == recordBlock) != (n%2 == 1) {
			t.Errorf("round %d: record at block %x", n, at)
		}
	}
}

// A disk that can't take the image boots as before.
func TestReplaceRefusals(t *testing.T) {
	t.Parallel()
	needTools(t)
	a, b := noise(t, "a", 1<<20), noise(t, "b", 1<<20+5)
	path := filepath.Join(t.TempDir(), "disk.raw")
	if _, err := Create(t.Context(), path, Options{Images: []string{a, b}, BootSize: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	before := must(os.ReadFile(path))
	if err := Replace(t.Context(), path, noise(t, "large", 8<<20)); !errors.Is(err, ErrOptions) {
		t.Errorf("an image larger than the partition: %v", err)
	}
	if !bytes.Equal(must(os.ReadFile(path)), before) {
		t.Error("a refused image changed the disk")
	}
	if err := Replace(t.Context(), path, b); err != nil {
		t.Errorf("an image that fits, after one that did not: %v", err)
	}
	loads(t, must(os.ReadFile(path)), b, b, a)
	if err := Replace(t.Context(), a, b); !errors.Is(err, ErrTable) {
		t.Errorf("no disk: %v", err)
	}
	if err := Replace(t.Context(), path, path+"x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no image: %v", err)
	}
}

func TestParseExtents(t *testing.T) {
	t.Parallel()
	const head = "debugfs 1.47.0 (5-Feb-2023)\ndebugfs: dump_extents -l x\nLevel Entries       Logical          Physical Length Flags\n"
	for _, c := range []struct {
		name, text string
		blocks     int64
		want       []Run
	}{
		{"one", head + " 0/ 0   1/  1     0 -     3   1000 -  1003      4 \n", 30, []Run{{2048 + 8000, 30}}},
		{"hole, and an end without an extent", head + " 1/ 1   1/  2     2 -     3   1000 -  1001      2 \n 1/ 1   2/  2    5 -    5  7 -  7   1 \n", 60,
			[]Run{{0, 16}, {2048 + 8000, 16}, {0, 8}, {2048 + 56, 8}, {0, 12}}},
		{"inner node is none", head + " 0/ 1   1/  1     0 -     1   9 1\n 1/ 1   1/  1     0 -     1   1000 -  1001      2 \n", 16, []Run{{2048 + 8000, 16}}},
		{"not written", head + " 0/ 0   1/  2     0 -     0   10 -  10      1 Uninit\n 0/ 0   2/  2     1 -     1   11 -  11      1 \n", 16, []Run{{0, 8}, {2048 + 88, 8}}},
		{"nothing", head, 8, nil},
		{"backwards", head + " 0/ 0   1/  2     1 -     1   10 -  10      1 \n 0/ 0   2/  2     0 -     0   11 -  11      1 \n", 16, nil},
		{"wrong length", head + " 0/ 0   1/  1     0 -     3   1000 -  1003      5 \n", 30, nil},
	} {
		got, err := parseExtents(c.text, 2048, c.blocks)
		if !reflect.DeepEqual(got, c.want) || (err != nil) != (c.want == nil) || err != nil && !errors.Is(err, ErrExtents) {
			t.Errorf("%s: %v %v, wants %v", c.name, got, err, c.want)
		}
	}
}
