package initrd

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// realTree is the tree of the kernel that cross/setup.sh fetched.
func realTree(t *testing.T) *Tree {
	t.Helper()
	cache := os.Getenv("SECEXEC_CACHE")
	if cache == "" {
		cache = filepath.Join("..", ".cache")
	}
	dir := filepath.Join(cache, "kernel", "modules")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no kernel in %s: run make setup", cache)
	}
	release, err := os.ReadFile(filepath.Join(cache, "kernel", "release"))
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSpace(string(release))
	tree, err := OpenTree(os.DirFS(filepath.Join(dir, "lib/modules", name)), name)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// bare hides what depmod makes.
type bare struct{ fs.FS }

func (b bare) Open(name string) (fs.File, error) {
	switch name {
	case "modules.dep", "modules.softdep", "modules.alias":
		return nil, fs.ErrNotExist
	}
	return b.FS.Open(name)
}

// TestDepmodAgrees compares what is read from the modules with what depmod
// wrote of them, for every feature.
func TestDepmodAgrees(t *testing.T) {
	t.Parallel()
	tree := realTree(t)
	want, err := Needs{Block: true, SCSI: true, Net: true, Console: true, Vsock: true, Crypt: true, Verity: true, Integrity: true,
		FileSystems: []string{"ext4", "xfs", "erofs", "overlay"}}.Modules()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := OpenTree(bare{tree.fsys}, tree.Release)
	if err != nil {
		t.Fatal(err)
	}
	sorted := func(tree *Tree) []Module {
		modules, err := tree.Closure(want)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(modules, func(a, b Module) int { return cmp.Compare(a.Path, b.Path) })
		return modules
	}
	if a, b := sorted(ours), sorted(tree); !slices.Equal(a, b) {
		t.Errorf("without depmod's files: %v\nwith them: %v", a, b)
	} else {
		t.Logf("%d modules", len(a))
	}
}

// TestPremiseDebianKernel pins what Needs rests on: which modules
// Debian's kernel has, that ext4's checksum comes in by a soft dependency's
// alias, and that all of them unpack to s390x modules.
func TestPremiseDebianKernel(t *testing.T) {
	t.Parallel()
	tree := realTree(t)
	want, err := Needs{Block: true, SCSI: true, Net: true, Console: true, Crypt: true, FileSystems: []string{"ext4"}}.Modules()
	if err != nil {
		t.Fatal(err)
	}
	modules, err := tree.Closure(want)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	total, signatures := 0, 0
	for _, m := range modules {
		names = append(names, m.File)
		b, err := tree.Load(m)
		if err != nil {
			t.Error(err)
		}
		total += len(b)
		cut, err := stripSignature(b)
		if err != nil {
			t.Errorf("strip %s: %v", m.File, err)
		}
		signatures += len(b) - len(cut)
	}
	t.Logf("kernel %s: %d modules, %d bytes, %d of them signatures: %v", tree.Release, len(names), total, signatures, names)
	for _, must := range []string{"virtio_blk", "dm-mod", "dm-crypt", "xts", "ext4", "jbd2", "mbcache", "crc16", "crc32c_generic", "virtio_scsi", "sd_mod", "virtio_net"} {
		if !slices.Contains(names, must) && !tree.index.builtin[normal(must)] {
			t.Errorf("module %s is neither in the closure nor built in", must)
		}
	}
	if slices.Index(names, "crc32c_generic") > slices.Index(names, "ext4") {
		t.Error("ext4 comes before the checksum it asks for while it is mounted")
	}
}

// TestPremiseIntegrityModules pins where Debian's kernel has dm-crypt's AEAD:
// modules that come before what asks for them, and HMAC built in.
func TestPremiseIntegrityModules(t *testing.T) {
	t.Parallel()
	tree := realTree(t)
	want, err := Needs{Crypt: true, Integrity: true}.Modules()
	if err != nil {
		t.Fatal(err)
	}
	modules, err := tree.Closure(want)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range modules {
		names = append(names, m.File)
	}
	t.Log(names)
	for _, order := range [][2]string{{"authenc", "dm-integrity"}, {"dm-bufio", "dm-integrity"}, {"async_xor", "dm-integrity"}, {"sha256_s390", "authenc"}} {
		if a, b := slices.Index(names, order[0]), slices.Index(names, order[1]); a < 0 || b < a {
			t.Errorf("%s does not come before %s", order[0], order[1])
		}
	}
	if !tree.index.builtin["hmac"] {
		t.Error("hmac is not built in")
	}
}
