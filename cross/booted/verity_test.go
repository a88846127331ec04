package booted

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/owner"
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
	if err := makeRoot(root, map[string]string{"tmp/": "", "srv/content": verityCanary + " of " + name + "\n"}); err != nil {
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
