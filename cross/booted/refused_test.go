package booted

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
