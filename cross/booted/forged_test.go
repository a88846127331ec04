package booted

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/secret"
)

// Disks that a hostile host puts in the root's place: none of them runs
// anything.
func TestForgedDisks(t *testing.T) {
	t.Parallel()
	bundle := small(t)
	original, err := os.ReadFile(filepath.Join(bundle, "root.img"))
	if err != nil {
		t.Fatal(err)
	}
	const payload = 16 << 20
	plain := plainRoot(t, len(original)-payload)
	other := func() []byte {
		path := filepath.Join(t.TempDir(), "other.img")
		if _, err := rootdisk.Create(t.Context(), path, rootdisk.Options{
			Source: filepath.Join(lab.dir, "small-root"), Size: int64(len(original) - payload), Passphrase: secret.Random(64),
		}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}()
	cases := []struct {
		name, code string
		disk       []byte
	}{
		{"plain file system with its own init", "G108", append(bytes.Clone(plain), make([]byte, payload)...)},
		{"plain file system behind the header", "G108", append(bytes.Clone(original[:payload]), plain...)},
		{"header that names the null cipher", "G108", append(nullCipher(t, original[:payload]), plain...)},
		{"another guest's disk", "G108", other},
		{"zeros", "G108", make([]byte, len(original))},
		{"truncated", "G106", original[:len(original)-1<<20]},
		{"header gone, payload whole", "", append(make([]byte, payload), original[payload:]...)},
	}
	n := newNode(t)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := n.with(t)
			forged := copyBundle(t, bundle)
			if err := os.WriteFile(filepath.Join(forged, "root.img"), c.disk, 0o600); err != nil {
				t.Fatal(err)
			}
			cover(t, forged, bundle, "root.img")
			name := "forged-" + string(rune('a'+i))
			if err := n.launch(forged, name); err != nil {
				t.Fatal(err)
			}
			g := n.settled(name)
			console := n.console(name)
			switch {
			case c.code == "" && g.State != "ready":
				// The guest never reads the header: its loss is no harm.
				t.Errorf("guest is %v\n%s", g, console)
			case c.code != "" && (g.State != "failed" || g.Failure.Code != c.code):
				t.Errorf("guest is %v, wants failure %s\n%s", g, c.code, console)
			case c.code != "" && strings.Contains(console, "testinit"):
				t.Errorf("the forged root ran:\n%s", console)
			case c.code != "" && !strings.Contains(console, "secexec: guest stopped: "+c.code):
				t.Errorf("the console does not say why:\n%s", console)
			}
			if _, err := n.c.Kill(t.Context(), name); g.State == "ready" && err != nil {
				t.Error(err)
			}
		})
	}
}

// plainRoot makes an ext4 file system with testinit as its init, unencrypted.
func plainRoot(t *testing.T, size int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plain.ext4")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(size)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-d", filepath.Join(lab.dir, "small-root"), path)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// nullCipher rewrites a LUKS2 header to say that its segment is not encrypted,
// in both copies, with checksums that fit: the forgery to which several
// confidential-VM stacks fell in 2025.
func nullCipher(t *testing.T, header []byte) []byte {
	t.Helper()
	out := bytes.Clone(header)
	const size = 16 << 10
	for _, at := range []int{0, size} {
		b := out[at : at+size]
		text := bytes.TrimRight(b[4096:], "\x00")
		before, after, found := bytes.Cut(text, []byte(`"segments"`))
		if !found {
			t.Fatal("no segments in the header")
		}
		forged := append(append(bytes.Clone(before), `"segments"`...), bytes.Replace(after, []byte("aes-xts-plain64"), []byte("cipher_null-ecb"), 1)...)
		clear(b[4096:])
		copy(b[4096:], forged)
		clear(b[448:512])
		sum := sha256.Sum256(b)
		copy(b[448:], sum[:])
	}
	return out
}

// Images and bundles that a node refuses, each with its own code.
func TestRefusedImages(t *testing.T) {
	t.Parallel()
	bundle := small(t)
	elsewhere, err := build("elsewhere", filepath.Join(lab.dir, "small-root"), "host-b", 256)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int64) func(string) {
		return func(dir string) {
			f, err := os.OpenFile(filepath.Join(dir, "boot.seimg"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b := make([]byte, 1)
			if _, err := f.ReadAt(b, at); err != nil {
				t.Fatal(err)
			}
			b[0] ^= 1
			if _, err := f.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	n := newNode(t)
	cases := []struct {
		name, code, words string
		spoil             func(dir string)
		cover             bool
	}{
		{"flipped page", "H209", "the image's pages were changed", flip(1 << 20), true},
		{"flipped header", "H209", "", flip(0x14000 + 60), true},
		{"flipped key slot", "H209", "key slot", flip(0x14000 + 416 + 40), true},
		{"flipped, manifest as it was", "H201", "damaged", flip(1 << 20), false},
		{"truncated", "H201", "bytes", func(dir string) { os.Truncate(filepath.Join(dir, "boot.seimg"), 1<<20) }, false},
		{"no disk", "H201", "missing", func(dir string) { os.Remove(filepath.Join(dir, "root.img")) }, false},
		{"no manifest", "H201", "no bundle.json", func(dir string) { os.Remove(filepath.Join(dir, "bundle.json")) }, false},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := n.with(t)
			spoiled := copyBundle(t, bundle)
			c.spoil(spoiled)
			if c.cover {
				cover(t, spoiled, bundle, "boot.seimg")
			}
			name := "spoiled-" + string(rune('a'+i))
			err := n.launch(spoiled, name)
			if err != nil {
				if code(err) != c.code || !strings.Contains(err.Error(), c.words) {
					t.Errorf("launch: %v, wants %s with %q", err, c.code, c.words)
				}
				if _, err := n.c.Get(t.Context(), name); code(err) != "H204" {
					t.Errorf("the refused guest exists: %v", err)
				}
				return
			}
			g := n.settled(name)
			if g.State != "failed" || g.Failure.Code != c.code || !strings.Contains(g.Failure.Message, c.words) || g.Pid != 0 {
				t.Errorf("guest is %v, wants %s with %q", g, c.code, c.words)
			}
			if console := n.console(name); !strings.Contains(console, "secexec: image refused: ") || !strings.Contains(console, "diag 0x0a02)") {
				t.Errorf("the boot loader does not say why:\n%s", console)
			}
		})
	}
	if err := n.launch(elsewhere, "elsewhere"); code(err) != "H202" || !strings.Contains(err.Error(), "CN=host-b") {
		t.Errorf("image for another host: %v", err)
	}
}
