package booted

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/secret"
)

// freshBundle is a bundle with what lives for one boot, and a root and a volume
// that grow. Its init writes word wherever nobody may read it.
type freshBundle struct {
	path string
	word []byte
	err  error
}

var freshOnce = sync.OnceValue(func() (f freshBundle) {
	f.word = []byte("canary " + hex.EncodeToString(secret.Random(16)) + "\n")
	root := filepath.Join(lab.dir, "fresh-root")
	if f.err = makeRoot(root, map[string]string{"scratch/": "", "data/": "", "canary": string(f.word)}); f.err != nil {
		return f
	}
	var p owner.Plan
	if p, f.err = plan("fresh", root, "host-a", 256); f.err != nil {
		return f
	}
	p.Root.Size, p.Root.Grow, p.SwapSize = 24<<20, true, 16<<20
	p.Volumes = []owner.Volume{
		{Name: "scratch", Mount: "/scratch", Fresh: true, FileSystem: owner.FileSystem{Size: 16 << 20}},
		{Name: "data", Mount: "/data", FileSystem: owner.FileSystem{Size: 8 << 20, Grow: true}},
	}
	_, f.err = owner.Build(context.Background(), p)
	f.path = p.Bundle
	return f
})

func freshLab(t *testing.T) freshBundle {
	t.Helper()
	small(t) // skips, and makes the init
	f := freshOnce()
	if f.err != nil {
		t.Fatal(f.err)
	}
	return f
}

// disk is the path of a guest's disk on its node.
func (n *node) disk(guest, name string) string {
	return filepath.Join(n.path("state"), "guests", guest, name+".img")
}

// boots starts a guest and returns what its init said.
func (n *node) boots(name string) string {
	n.t.Helper()
	before := strings.Count(n.console(name), "testinit: waits")
	if _, err := n.c.Start(n.t.Context(), name, ""); err != nil {
		n.t.Fatal(err)
	}
	if g := n.settled(name); g.State != "ready" {
		n.t.Fatalf("guest is %v\nconsole:\n%s", g, n.console(name))
	}
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c := n.console(name); strings.Count(c, "testinit: waits") > before {
			return c[strings.LastIndex(c, "testinit: pid 1 "):]
		}
	}
	n.t.Fatalf("the init does not come to its end:\n%s", n.console(name))
	return ""
}

func (n *node) stop(name string) {
	n.t.Helper()
	if _, err := n.c.Stop(n.t.Context(), name, time.Minute); err != nil {
		n.t.Fatal(err)
	}
	if g := n.settled(name); g.State != "stopped" {
		n.t.Fatalf("guest is %v\nconsole:\n%s", g, n.console(name))
	}
}

// search tells whether a file holds a word, and how many bytes of it are stored.
func search(t *testing.T, path string, word []byte) (found bool, stored int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	text, err := unix.Mmap(int(f.Fd()), 0, int(st.Size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(text)
	return bytes.Contains(text, word), st.Blocks * 512
}

// mibOf reads how large the init found a file system, in MiB.
func mibOf(t *testing.T, said, dir string) int {
	t.Helper()
	m := regexp.MustCompile(`testinit: ` + dir + ` has (\d+) MiB`).FindStringSubmatch(said)
	if m == nil {
		t.Fatalf("no size of %s:\n%s", dir, said)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// A fresh volume and swap work, are unreadable on the disk, and gone at the next
// boot; root and data volume grow to what the operator has given them.
func TestFreshKeysAndGrowth(t *testing.T) {
	t.Parallel()
	f := freshLab(t)
	n := newNode(t)
	if out, err := n.secexec("create", f.path, "--name", "g"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"scratch", "swap"} {
		if _, stored := search(t, n.disk("g", name), f.word); stored > 64<<10 {
			t.Errorf("a blank disk takes %d bytes before anybody wrote to it", stored)
		}
	}
	sizes := make(map[string]int)
	for boot, added := range []int64{0, 200} {
		if added != 0 {
			for _, name := range []string{"root", "data"} {
				if out, err := n.secexec("disk", "grow", n.disk("g", name), "--size", "+"+strconv.FormatInt(added, 10)+"M"); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
		}
		said := n.boots("g")
		for _, want := range []string{
			"scratch holds [d lost+found/] <nil>", "scratch's device holds the word: no", "scratch written: <nil>",
			"scratch's device, written, holds the word: yes", "/scratch ext4 rw,nodev", "/dev/dm-", "fresh is done",
			"boots before: " + strconv.Itoa(boot),
		} {
			if !strings.Contains(said, want) {
				t.Errorf("boot %d: no %q:\n%s", boot, want, said)
			}
		}
		if m := regexp.MustCompile(`testinit: swapped: used before they came back (\d+) KiB`).FindStringSubmatch(said); m == nil {
			t.Errorf("boot %d: no swap in use:\n%s", boot, said)
		} else if used, _ := strconv.Atoi(m[1]); used < 2<<10 {
			t.Errorf("boot %d: only %d KiB were swapped:\n%s", boot, used, said)
		}
		if strings.Contains(said, "logon     secexec:") {
			t.Errorf("boot %d: a key is still in a keyring", boot)
		}
		for _, dir := range []string{"/", "/data"} {
			size := mibOf(t, said, dir)
			if grown := size - sizes[dir]; added != 0 && (grown < int(added)*9/10 || grown > int(added)) {
				t.Errorf("%s has %d MiB after %d, with %d MiB more", dir, size, sizes[dir], added)
			}
			sizes[dir] = size
		}
		n.stop("g")
		for name, least := range map[string]int64{"scratch": 256 << 10, "swap": 2 << 20, "root": 1 << 20} {
			found, stored := search(t, n.disk("g", name), f.word[:20])
			if found || stored < least {
				t.Errorf("boot %d: %s.img holds the word: %v, and %d bytes", boot, name, found, stored)
			}
		}
	}
	if os.Getenv("SECEXEC_LONG") == "" {
		return
	}
	// A host that takes the room away again does not get the guest to run.
	if err := os.Truncate(n.disk("g", "root"), 16<<20+24<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := n.c.Start(t.Context(), "g", ""); err != nil {
		t.Fatal(err)
	}
	if g := n.settled("g"); g.State != "failed" || g.Failure.Code != "G108" {
		t.Errorf("a root disk smaller than its file system: %v\n%s", g, n.console("g"))
	}
}

// On a bootable disk fresh volumes and swap are partitions.
func TestFreshBootableDisk(t *testing.T) {
	t.Parallel()
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-long)")
	}
	freshLab(t) // makes the root
	p, err := plan("fresh-disk", filepath.Join(lab.dir, "fresh-root"), "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	p.SwapSize, p.BootableDisk = 16<<20, filepath.Join(lab.dir, "fresh-disk.raw")
	p.Volumes = []owner.Volume{{Name: "scratch", Mount: "/scratch", Fresh: true, FileSystem: owner.FileSystem{Size: 16 << 20}}}
	if _, err := owner.Build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	if out, err := n.secexec("create", p.Bundle, "--name", "g"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	said := n.boots("g")
	for _, want := range []string{"scratch holds [d lost+found/] <nil>", "scratch's device, written, holds the word: yes", "swapped: used before they came back ", "fresh is done"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q:\n%s", want, said)
		}
	}
}

// Growth far beyond the group descriptors that the file system was made with;
// and blank disks that a host has made too small.
func TestFreshLong(t *testing.T) {
	t.Parallel()
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-long)")
	}
	f := freshLab(t)
	n := newNode(t)
	for _, name := range []string{"large", "cut"} {
		if out, err := n.secexec("create", f.path, "--name", name); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if out, err := n.secexec("disk", "grow", n.disk("large", "data"), "--size", "40G"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if size := mibOf(t, n.boots("large"), "/data"); size < 38<<10 {
		t.Errorf("/data has %d MiB of 40 GiB", size)
	}
	n.stop("large")
	if size := mibOf(t, n.boots("large"), "/data"); size < 38<<10 {
		t.Errorf("at the next boot /data has %d MiB of 40 GiB", size)
	}
	for name, size := range map[string]int64{"scratch": 16 << 20, "swap": 16 << 20} {
		if err := os.Truncate(n.disk("cut", name), size-4096); err != nil {
			t.Fatal(err)
		}
		if _, err := n.c.Start(t.Context(), "cut", ""); err != nil {
			t.Fatal(err)
		}
		if g := n.settled("cut"); g.State != "failed" || g.Failure.Code != "G116" {
			t.Errorf("a %s disk that is too small: %v", name, g)
		}
		if err := os.Truncate(n.disk("cut", name), size); err != nil {
			t.Fatal(err)
		}
	}
}

// An xfs grows, too, at the boot after its disk did.
func TestXFSGrows(t *testing.T) {
	t.Parallel()
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-long)")
	}
	freshLab(t) // makes the root
	image := filepath.Join(lab.dir, "xfs.img")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 32<<20)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mkfs.xfs", "-q", "-s", "size=4096", image)             // as dm-crypt has them
	cmd.Env = append(os.Environ(), "TEST_DIR=/", "TEST_DEV=/", "QA_CHECK_FS=1") // its own tests' words for less than 300 MiB
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mkfs.xfs: %v: %s: install xfsprogs", err, out)
	}
	p, err := plan("xfs-grown", filepath.Join(lab.dir, "fresh-root"), "host-a", 256)
	if err != nil {
		t.Fatal(err)
	}
	p.SwapSize = 16 << 20 // for the init to look at
	p.Volumes = []owner.Volume{
		{Name: "scratch", Mount: "/scratch", Fresh: true, FileSystem: owner.FileSystem{Size: 16 << 20}},
		{Name: "data", Mount: "/data", FileSystem: owner.FileSystem{Source: image, Grow: true}},
	}
	if _, err := owner.Build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	if out, err := n.secexec("create", p.Bundle, "--name", "g"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before := mibOf(t, n.boots("g"), "/data")
	n.stop("g")
	if out, err := n.secexec("disk", "grow", n.disk("g", "data"), "--size", "+200M"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for boot := range 2 {
		said := n.boots("g")
		if grown := mibOf(t, said, "/data") - before; grown < 195 || grown > 200 || !strings.Contains(said, "/data xfs rw") {
			t.Errorf("boot %d: /data had %d MiB, and has %d more:\n%s", boot, before, grown, said)
		}
		n.stop("g")
	}
}
