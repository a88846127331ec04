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
	"time"

	"golang.org/x/crypto/xts"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/secret"
)

// payload is where a disk's payload begins.
const payload = 16 << 20

// verityCanary stands in a file that testinit shows: what no guest shows did
// not leave it.
const verityCanary = "canary-3f1c0d5e"

// verityRoot makes a root of mode verity, whose file /srv/content says which one
// it is.
func verityRoot(t *testing.T, name, fsType string, overlay *owner.Overlay) string {
	t.Helper()
	p := verityPlan(t, name, fsType, overlay)
	if _, err := owner.Build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p.Bundle
}

func verityPlan(t *testing.T, name, fsType string, overlay *owner.Overlay) owner.Plan {
	t.Helper()
	small(t) // skips, and makes the root's folder
	root := filepath.Join(lab.dir, name+"-root")
	for _, dir := range []string{"sbin", "srv", "dev", "proc", "run", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(lab.dir, "small-root/sbin/init"), filepath.Join(root, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "srv/content"), []byte(verityCanary+" of "+name+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := plan(name, root, "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	if p.Root.Mode, err = owner.ParseMode("verity"); err != nil {
		t.Fatal(err)
	}
	p.Root.FSType, p.Overlay = fsType, overlay
	if fsType != "erofs" {
		p.Root.Size = 16 << 20
	}
	return p
}

// want looks for words on a guest's console, and for those that must not be there.
func want(t *testing.T, console string, words ...string) {
	t.Helper()
	for _, w := range words {
		w, absent := strings.CutPrefix(w, "!")
		if strings.Contains(console, w) == absent {
			t.Errorf("console: %q absent=%v is not so:\n%s", w, absent, console)
		}
	}
}

// A root of mode verity without a writable layer boots, read-only, and so does a
// data volume of that mode.
func TestVerityRoots(t *testing.T) {
	t.Parallel()
	small(t)
	n := newNode(t)
	for _, fsType := range []string{"ext4", "erofs"} {
		if fsType == "erofs" && os.Getenv("SECEXEC_LONG") == "" {
			continue // one boots with a layer over it
		}
		p := verityPlan(t, "verity-"+fsType, fsType, nil)
		data := t.TempDir()
		if err := os.WriteFile(filepath.Join(data, "content"), []byte("verified data\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		p.Volumes = []owner.Volume{{Name: "data", Mount: "/srv", FileSystem: owner.FileSystem{Source: data, Mode: p.Root.Mode, FSType: "erofs"}}}
		if _, err := owner.Build(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		n.ready(p.Bundle, fsType)
		want(t, n.says(fsType, "testinit: waits"), " / "+fsType+" ro,", " /srv erofs ro,nodev,", " verity 1 ", "/srv/content: verified data",
			"boots written: open /boots: read-only file system", "!logon     secexec:")
		if _, err := n.c.Stop(t.Context(), fsType, 30*time.Second); err != nil {
			t.Error(err)
		}
	}
}

// Debian with systemd boots from an erofs with a layer in memory over it: no unit
// fails.
func TestVerityDebian(t *testing.T) {
	t.Parallel()
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-long)")
	}
	small(t)
	tar := filepath.Join(lab.cache, "roots/debian.tar")
	if _, err := os.Stat(tar); err != nil {
		t.Skip("no Debian root in the cache: run cross/setup.sh")
	}
	p, err := plan("verity-debian", tar, "host-a", 1024)
	if err != nil {
		t.Fatal(err)
	}
	if p.Root.Mode, err = owner.ParseMode("verity"); err != nil {
		t.Fatal(err)
	}
	p.Root.FSType, p.Overlay = "erofs", &owner.Overlay{Size: 64 << 20}
	p.Cmdline = owner.DefaultCmdline(3) + " systemd.show_status=1"
	if _, err := owner.Build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	n.ready(p.Bundle, "debian")
	want(t, n.says("debian", "hello from the sealed guest"), "Reached target", "!FAILED", "!emergency")
	if _, err := n.c.Stop(t.Context(), "debian", time.Minute); err != nil {
		t.Error(err)
	}
	want(t, n.console("debian"), "!FAILED")
}

// What is written to a layer in memory is gone at the next boot; to a volume it
// stays.
func TestVerityOverlays(t *testing.T) {
	t.Parallel()
	small(t)
	n := newNode(t)
	for _, c := range []struct {
		name, fsType, again string
		overlay             owner.Overlay
	}{
		{"volume", "erofs", "boots before: 1", owner.Overlay{Volume: true, Size: 16 << 20}},
		{"memory", "ext4", "boots before: 0", owner.Overlay{Size: 8 << 20}},
		{"fresh", "erofs", "boots before: 0", owner.Overlay{Volume: true, Size: 16 << 20, Fresh: true}},
	} {
		if c.overlay.Fresh && os.Getenv("SECEXEC_LONG") == "" {
			continue
		}
		n.ready(verityRoot(t, "overlay-"+c.name, c.fsType, &c.overlay), c.name)
		want(t, n.says(c.name, "testinit: waits"), " / overlay rw,", "redirect_dir=nofollow", " verity 1 ", "boots before: 0", "boots written: <nil>", verityCanary,
			"! /lower ", "! /layer ", "!logon     secexec:")
		if c.overlay.Volume || os.Getenv("SECEXEC_LONG") != "" {
			if _, err := n.c.Stop(t.Context(), c.name, 30*time.Second); err != nil {
				t.Error(err)
			}
			if _, err := n.c.Start(t.Context(), c.name, ""); err != nil {
				t.Fatal(err)
			}
			if g := n.settled(c.name); g.State != "ready" {
				t.Fatalf("guest is %v\n%s", g, n.console(c.name))
			}
			console := n.console(c.name)
			for deadline := time.Now().Add(time.Minute); strings.Count(console, "testinit: waits") < 2 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				console = n.console(c.name)
			}
			_, second, _ := strings.Cut(console, "testinit: waits")
			want(t, second, "testinit: waits", c.again, "boots written: <nil>", verityCanary)
		}
		if _, err := n.c.Stop(t.Context(), c.name, 30*time.Second); err != nil {
			t.Error(err)
		}
	}
}

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
