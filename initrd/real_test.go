package initrd

import (
	"os"
	"path/filepath"
	"slices"
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
	tree, err := FindTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestPremiseDebianKernel pins what DefaultModules rests on: which modules
// Debian's kernel has, that ext4's checksum comes in by a soft dependency's
// alias, and that all of them unpack to s390x modules.
func TestPremiseDebianKernel(t *testing.T) {
	t.Parallel()
	tree := realTree(t)
	modules, err := tree.Closure(DefaultModules)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	total := 0
	for _, m := range modules {
		names = append(names, m.File)
		b, err := tree.Load(m)
		if err != nil {
			t.Error(err)
		}
		total += len(b)
	}
	t.Logf("kernel %s: %d modules, %d bytes: %v", tree.Release, len(names), total, names)
	for _, must := range []string{"virtio_blk", "dm-mod", "dm-crypt", "xts", "ext4", "jbd2", "mbcache", "crc16", "crc32c_generic", "virtio_scsi", "sd_mod", "virtio_net"} {
		if !slices.Contains(names, must) && !tree.index.builtin[normal(must)] {
			t.Errorf("module %s is neither in the closure nor built in", must)
		}
	}
	if slices.Index(names, "crc32c_generic") > slices.Index(names, "ext4") {
		t.Error("ext4 comes before the checksum it asks for while it is mounted")
	}
}
