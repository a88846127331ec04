package booted

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/secret"
)

// What a hostile host does to a disk with integrity ends in a refusal or in I/O
// errors, or does no harm: nothing that was changed is ever run or read.
func TestForgedIntegrity(t *testing.T) {
	t.Parallel()
	bundle := integrity(t)
	original, err := os.ReadFile(filepath.Join(bundle, "root.img"))
	if err != nil {
		t.Fatal(err)
	}
	plain, l := dataOf(t, filepath.Join(bundle, "root.img"), bundle+"-secrets/disk.key")
	program, err := os.ReadFile(filepath.Join(lab.dir, "small-root/sbin/init"))
	if err != nil {
		t.Fatal(err)
	}
	init := sectorOf(t, plain, program[:4096])
	const at = 16 << 20 // of the superblock
	data, tag := func(sector int64) int64 { return at + l.Data(sector) }, func(sector int64) int64 { return at + l.Tag(sector) }
	swap := func(b []byte, x, y, n int64) {
		tmp := bytes.Clone(b[x : x+n])
		copy(b[x:x+n], b[y:y+n])
		copy(b[y:y+n], tmp)
	}
	set := func(offset int, value ...byte) func(b []byte) []byte {
		return func(b []byte) []byte { copy(b[at+offset:], value); return b }
	}
	change := func(f func(b []byte)) func(b []byte) []byte { return func(b []byte) []byte { f(b); return b } }
	// commit writes the journal's first section as if dm-integrity had just
	// committed it, with an entry for sector 0.
	commit := func(b []byte, sector, itsTag []byte) {
		section := b[at+4096:][:264*512]
		clear(section[:8])
		copy(section[8+64:], itsTag)
		copy(section[4096:], sector)
		for u := range 264 {
			if u >= 8 && u < 16 { // the sector's last 8 bytes of each 512 stand in the entry
				copy(section[8+(u-8)*8:], section[(u+1)*512-8:(u+1)*512])
			}
			binary.LittleEndian.PutUint64(section[(u+1)*512-8:], 0x2222222222222222^uint64(u))
		}
	}
	cases := []struct {
		name  string
		code  string // of the failure; "" boots, and nothing was lost
		quick bool
		spoil func(b []byte) []byte
	}{
		{"sectors swapped with their tags", "G108", true, change(func(b []byte) { swap(b, data(0), data(8192), 4096); swap(b, tag(0), tag(8192), 32) })},
		{"interleaved otherwise", "G121", true, set(9, 14)},

		{"flipped bit", "G108", false, change(func(b []byte) { b[data(0)+1080] ^= 1 })},
		{"flipped bit of a tag", "G108", false, change(func(b []byte) { b[tag(0)+31] ^= 1 })},
		{"flipped bit of the init", "G111", false, change(func(b []byte) { b[data(init)+100] ^= 1 })},
		{"sectors swapped, tags left", "G108", false, change(func(b []byte) { swap(b, data(0), data(8192), 4096) })},
		{"no tags", "G108", false, change(func(b []byte) { clear(b[tag(0) : tag(0)+131072]) })},
		{"another key", "G108", false, change(func(b []byte) { copy(b[at:], otherDevice(t, l.Size)) })},
		{"another key, tags of this", "G108", false, change(func(b []byte) {
			copy(b[data(0):data(0)+16<<20], otherDevice(t, l.Size)[l.Data(0):])
		})},
		{"plain file system", "G121", false, change(func(b []byte) { copy(b[at:], plainRoot(t, int(l.Size))) })},

		{"no superblock", "G121", false, set(0, 'I')},
		{"version 9", "G121", false, set(8, 9)},
		{"tags of 16 bytes", "G121", false, set(10, 16)},
		{"no journal", "G121", false, set(12, 0, 0, 0, 0)},
		{"shorter journal", "G121", false, set(12, 1)},
		{"longer journal", "G121", false, set(12, 3)},
		{"journal as long as the disk", "G121", false, set(12, 0, 1)},
		{"data of 8 sectors", "", false, set(16, 8, 0, 0)},
		{"data of 2^40 sectors", "", false, set(16, 0, 0, 0, 0, 0, 1)},
		{"journal with MAC", "G121", false, set(24, 9)},
		{"recalculates tags", "G121", false, set(24, 10)},
		{"dirty bitmap", "G121", false, set(24, 12)},
		{"other padding", "G121", false, set(24, 0)},
		{"inline", "G121", false, set(24, 0x28)},
		{"sectors of 512 bytes", "G121", false, set(28, 0)},
		{"zeroed superblock", "G121", false, set(0, make([]byte, 4096)...)},

		{"journal replaces a sector by junk", "G108", false, change(func(b []byte) { commit(b, bytes.Repeat([]byte("junk"), 1024), make([]byte, 32)) })},
		{"journal replaces a sector by another", "G108", false, change(func(b []byte) {
			commit(b, bytes.Clone(b[data(8192):data(8192)+4096]), bytes.Clone(b[tag(8192):tag(8192)+32]))
		})},
		{"journal replaces a sector by itself", "", false, change(func(b []byte) {
			commit(b, bytes.Clone(b[data(0):data(0)+4096]), bytes.Clone(b[tag(0):tag(0)+32]))
		})},
		{"journal of zeros", "G108", false, change(func(b []byte) { clear(b[at+4096 : at+l.Data(0)-131072]) })},

		{"truncated", "G106", false, func(b []byte) []byte { return b[:len(b)-1<<20] }},
		{"longer", "", false, func(b []byte) []byte { return append(b, make([]byte, 32<<20)...) }},
		{"no LUKS2 header", "", false, change(func(b []byte) { clear(b[:at]) })},
	}
	n := newNode(t)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !c.quick && os.Getenv("SECEXEC_LONG") == "" {
				t.Skip("set SECEXEC_LONG=1 (make test-long)")
			}
			t.Parallel()
			n := n.with(t)
			forged := copyBundle(t, bundle)
			if err := os.WriteFile(filepath.Join(forged, "root.img"), c.spoil(bytes.Clone(original)), 0o600); err != nil {
				t.Fatal(err)
			}
			cover(t, forged, bundle, "root.img")
			name := fmt.Sprint("tagged-", i)
			if err := n.launch(forged, name); err != nil {
				t.Fatal(err)
			}
			g := n.settled(name)
			if c.code == "" {
				if g.State != "ready" {
					t.Fatalf("guest is %v\n%s", g, n.console(name))
				}
				n.says(name, "boots written: <nil>")
				n.says(name, "testinit: waits")
				if _, err := n.c.Kill(t.Context(), name); err != nil {
					t.Error(err)
				}
				return
			}
			console := n.console(name)
			if g.State != "failed" || g.Failure.Code != c.code || !strings.Contains(console, "secexec: guest stopped: "+c.code) {
				t.Errorf("guest is %v, wants failure %s\n%s", g, c.code, console)
			}
			if strings.Contains(console, "testinit") || strings.Contains(console, integrityContent) {
				t.Errorf("the forged root ran, or the canary is out:\n%s", console)
			}
		})
	}
}

// otherDevice is a dm-integrity device of this size with a key of its own, and
// the same root.
func otherDevice(t *testing.T, size int64) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "other.img")
	v, err := rootdisk.Create(t.Context(), path, rootdisk.Options{
		Source: filepath.Join(lab.dir, "small-root"), Size: 48 << 20, Integrity: true, Passphrase: secret.Random(64),
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || v.Size != size {
		t.Fatalf("%d bytes, %v", v.Size, err)
	}
	return b[v.Offset:]
}
