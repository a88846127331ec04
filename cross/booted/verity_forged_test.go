package booted

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/xts"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/secret"
)

// A layer's disk that holds something else: the root below it does not run
// without what was written over it.
func TestForgedLayer(t *testing.T) {
	t.Parallel()
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-long)")
	}
	small(t)
	n := newNode(t)
	for mode, code := range map[string]string{"crypt": "G118", "crypt-integrity": "G118"} {
		o := &owner.Overlay{Volume: true, Size: 16 << 20}
		var err error
		if o.Mode, err = owner.ParseMode(mode); err != nil {
			t.Fatal(err)
		}
		b := verityRoot(t, "layer-"+mode, "erofs", o)
		for what, forge := range map[string]func(disk []byte){
			"noise": func(disk []byte) {
				for at := payload + 4096; at < len(disk); at += 512 { // but for dm-integrity's superblock
					disk[at]++
				}
			},
			"zeros": func(disk []byte) { clear(disk[payload:]) },
		} {
			forged := copyBundle(t, b)
			disk, err := os.ReadFile(filepath.Join(forged, "overlay.img"))
			if err != nil {
				t.Fatal(err)
			}
			forge(disk)
			if err := os.WriteFile(filepath.Join(forged, "overlay.img"), disk, 0o600); err != nil {
				t.Fatal(err)
			}
			cover(t, forged, b, "overlay.img")
			name := what + "-" + mode
			if err := n.launch(forged, name); err != nil {
				t.Fatal(err)
			}
			g := n.settled(name)
			code := code
			if what == "zeros" && mode == "crypt-integrity" {
				code = "G121" // guestinit looks at the superblock first
			}
			if g.State != "failed" || g.Failure.Code != code {
				t.Errorf("%s: guest is %v, wants %s\n%s", name, g, code, n.console(name))
			}
			want(t, n.console(name), "!testinit", "!"+verityCanary)
		}
	}
}

// verityEnds are the ends of a guest that meets an I/O error somewhere in its
// root: in the file system, for its init, in the init's first page, in another
// (the kernel stops without PID 1), or in what the init reads.
var verityEnds = []string{"G108", "G109", "G111", "H212", "eio"}

// What a hostile host makes of a root of mode verity. The worst of it is the
// root before an update: the same volume key, the same places.
func TestForgedVerity(t *testing.T) {
	t.Parallel()
	small(t)
	p := verityPlan(t, "verity-forged", "ext4", nil)
	p.Update = true
	read := func(path string) []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	disk := filepath.Join(p.Bundle, "root.img")
	if _, err := owner.Build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	older := read(disk)
	if err := os.WriteFile(filepath.Join(p.Root.Source, "srv/content"), []byte("newer-"+verityCanary+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	newer := read(disk)
	var about owner.About
	if err := json.Unmarshal(read(filepath.Join(p.Secrets, owner.AboutFile)), &about); err != nil {
		t.Fatal(err)
	}
	tree := about.Disks[owner.RootSerial].HashTree
	if tree == nil || len(older) != len(newer) {
		t.Fatalf("%+v, %d bytes became %d", about, len(older), len(newer))
	}
	key := secret.Bytes(read(filepath.Join(p.Secrets, owner.VolumeKeyFile)))
	c, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		t.Fatal(err)
	}
	const block = 4096
	content := -1 // where srv/content lies in the disk
	for at := payload; at < payload+int(tree.DataSize); at += block {
		b := bytes.Clone(newer[at : at+block])
		c.Decrypt(b, b, uint64(at-payload)/512)
		if bytes.HasPrefix(b, []byte("newer-"+verityCanary)) {
			content = at
		}
	}
	if content < 0 {
		t.Fatal("no block holds the content")
	}
	// The tree: one block on top, then those with the digests of data.
	top := payload + int(tree.Offset)
	digests := top + block + (content-payload)/block/128*block
	changed := func(change func(b []byte)) []byte {
		b := bytes.Clone(newer)
		change(b)
		return b
	}
	flip := func(at int) []byte { return changed(func(b []byte) { b[at] ^= 1 }) }
	swap := func(x, y int) []byte {
		return changed(func(b []byte) {
			copy(b[x:x+block], newer[y:y+block])
			copy(b[y:y+block], newer[x:x+block])
		})
	}
	put := func(at int, from []byte, n int) []byte {
		return changed(func(b []byte) { copy(b[at:], from[at:at+n]) })
	}
	const (
		refused = "G108"   // nothing runs
		eio     = "eio"    // the rest runs, whoever reads the content gets an error
		either  = "either" // it depends on what else lies there: see verityEnds
		whole   = ""       // what was changed is never read
	)
	cases := []struct {
		name, want string
		disk       []byte
		long       bool
	}{
		{"older root of the same image's owner", refused, older, false},
		{"older content at its place, the tree as it is", eio, put(content, older, block), false},
		{"older content and its digests, the top as it is", either, changed(func(b []byte) {
			copy(b[content:content+block], older[content:])
			copy(b[digests:digests+block], older[digests:])
		}), true},
		{"older tree under newer data", refused, put(top, older, len(newer)-top), true},
		{"older data under the newer tree", either, put(payload, older, int(tree.DataSize)), true},
		{"bit of the content flipped", eio, flip(content + 5), true},
		{"last bit of the content's block flipped", eio, flip(content + block - 1), true},
		{"bit of the file system's superblock flipped", refused, flip(payload + 1024), true},
		{"bit of the top of the tree flipped", refused, flip(top + 1), true},
		{"unused end of the top of the tree flipped", refused, flip(top + block - 1), true},
		{"bit of the content's digests flipped", either, flip(digests + 7), true},
		{"content swapped with a neighbour", either, swap(content, content+block), true},
		{"top of the tree swapped with digests", refused, swap(top, top+block), true},
		{"two blocks of digests swapped", refused, swap(top+block, top+2*block), true},
		{"tree of zeros", refused, changed(func(b []byte) { clear(b[top:]) }), true},
		{"content of zeros", eio, changed(func(b []byte) { clear(b[content : content+block]) }), true},
		{"root of another image", refused, nil, true},
		{"forged root and tree, made by who knows the key", refused, nil, true},
		{"cut off in the tree", "G106", newer[:len(newer)-block], true},
		{"superblock for veritysetup gone", whole, changed(func(b []byte) { clear(b[payload+int(tree.DataSize):][:block]) }), true},
		{"LUKS2 header gone", whole, changed(func(b []byte) { clear(b[:payload]) }), true},
		{"longer disk", whole, append(bytes.Clone(newer), make([]byte, 1<<20)...), true},
	}
	n := newNode(t)
	for i, c := range cases {
		if c.long && os.Getenv("SECEXEC_LONG") == "" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			n := n.with(t)
			if c.disk == nil {
				o := rootdisk.Options{Source: p.Root.Source, Size: p.Root.Size, Verity: true, Passphrase: secret.Random(64)}
				if strings.Contains(c.name, "knows the key") {
					forged := filepath.Join(t.TempDir(), "forged")
					if out, err := exec.Command("cp", "-r", p.Root.Source, forged).CombinedOutput(); err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
					if err := os.WriteFile(filepath.Join(forged, "srv/content"), []byte("forged\n"), 0o644); err != nil {
						t.Fatal(err)
					}
					id, err := hex.DecodeString(about.RootID)
					if err != nil {
						t.Fatal(err)
					}
					o.Source, o.Key, o.ID = forged, key, [16]byte(id)
				}
				path := filepath.Join(t.TempDir(), "root.img")
				if _, err := rootdisk.Create(t.Context(), path, o); err != nil {
					t.Fatal(err)
				}
				c.disk = read(path)
			}
			forged := copyBundle(t, p.Bundle)
			if err := os.WriteFile(filepath.Join(forged, "root.img"), c.disk, 0o600); err != nil {
				t.Fatal(err)
			}
			cover(t, forged, p.Bundle, "root.img")
			name := fmt.Sprintf("forged-%d", i)
			if err := n.launch(forged, name); err != nil {
				t.Fatal(err)
			}
			g := n.settled(name)
			if g.State == "ready" {
				n.says(name, "testinit: waits")
				if _, err := n.c.Kill(t.Context(), name); err != nil {
					t.Error(err)
				}
			}
			console := n.console(name)
			got := "ran"
			switch {
			case g.State == "failed":
				got = g.Failure.Code
				if _, words, ok := strings.Cut(console, "secexec: guest stopped: "); ok { // the host's code where guestagent has the port
					got, _, _ = strings.Cut(words, ":")
				}
				want(t, console, "!testinit", "!"+verityCanary)
			case strings.Contains(console, "/srv/content: read /srv/content: input/output error"):
				got = eio
				want(t, console, "!"+verityCanary)
			case strings.Contains(console, "newer-"+verityCanary):
				got = whole
			}
			want(t, console, "!forged", "!"+verityCanary+" of")
			if got != c.want && (c.want != either || !slices.Contains(verityEnds, got)) {
				t.Errorf("guest is %v (%s), wants %q\n%s", g, got, c.want, console)
			}
		})
	}
}
