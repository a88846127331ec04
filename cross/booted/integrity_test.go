package booted

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/rootdisk/dmintegrity"
)

var integrityOnce struct {
	sync.Once
	bundle string
	err    error
}

const integrityContent = "the owner's data, in a sector with a tag\n"

// integrity returns the lab's bundle whose root and data volume have integrity.
func integrity(t *testing.T) string {
	t.Helper()
	small(t) // skips, and makes the root's folder
	integrityOnce.Do(func() {
		integrityOnce.bundle, integrityOnce.err = makeIntegrity(t)
	})
	if integrityOnce.err != nil {
		t.Fatal(integrityOnce.err)
	}
	return integrityOnce.bundle
}

func makeIntegrity(t *testing.T) (string, error) {
	data := filepath.Join(lab.dir, "integrity-data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(data, "content"), []byte(integrityContent), 0o644); err != nil {
		return "", err
	}
	plan, err := plan("integrity", filepath.Join(lab.dir, "small-root"), "host-a", 256)
	if err != nil {
		return "", err
	}
	mode, err := owner.ParseMode("crypt-integrity")
	if err != nil {
		return "", err
	}
	plan.Root.Size, plan.Root.Mode = 48<<20, mode
	plan.Volumes = []owner.Volume{{Name: "srv", Mount: "/srv", FileSystem: owner.FileSystem{Source: data, Size: 16 << 20, ReadOnly: true, Mode: mode}}}
	_, err = owner.Build(t.Context(), plan)
	return plan.Bundle, err
}

// Root and data volume with integrity: both are as built, and the root keeps
// what is written. The owner opens the used disk, with what its journal holds.
func TestIntegrityBoots(t *testing.T) {
	t.Parallel()
	bundle := integrity(t)
	n := newNode(t)
	g := n.ready(bundle, "whole")
	console := n.says("whole", "testinit: waits")
	for _, want := range []string{
		"dm table: 0 98792 crypt capi:authenc(hmac(sha256),xts(aes))-plain64 :96:logon:secexec:root 0 253:0 0 2 integrity:32:aead sector_size:4096",
		"dm table of tags: 0 98792 integrity ", " 32768 32 J 7 block_size:4096 journal_sectors:528 interleave_sectors:32768 ",
		" fix_padding", "/srv/content: the owner's data, in", "/dev/dm-1 / ext4 rw", "boots before: 0", "boots written: <nil>",
	} {
		if !strings.Contains(console, want) {
			t.Errorf("console has no %q:\n%s", want, console)
		}
	}
	canaries(t, n, g.Pid, bundle+"-secrets")
	disk := n.path("state/guests/whole/root.img")
	if before, after := superblock(t, filepath.Join(bundle, "root.img")), superblock(t, disk); !bytes.Equal(before, after) {
		t.Errorf("the kernel changed the superblock:\n%x\n%x", before[:64], after[:64])
	}
	if out, err := n.secexec("stop", "whole"); err != nil {
		t.Errorf("stop: %v\n%s", err, out)
	}
	if waits := journalled(t, disk); waits == 0 {
		t.Error("the journal is empty: nothing shows that it is read")
	}
	openIntegrity(t, disk, bundle, ".")
	// While it is off a sector of a file changes: reading it is an error.
	spoilFile(t, n.path("state/guests/whole/srv.img"), bundle, "srv.disk.key", []byte(integrityContent))
	if out, err := n.secexec("start", "whole", "--identity", bundle+"-secrets/identity.pub"); err != nil {
		t.Errorf("start: %v\n%s", err, out)
	}
	console = n.says("whole", "/srv/content: read /srv/content: input/output error")
	n.says("whole", "boots before: 1")
	if strings.Count(console, "/srv/content: ") != 3 { // its one line, then the error with its path
		t.Errorf("the changed file is read:\n%s", console)
	}
	if os.Getenv("SECEXEC_LONG") == "" {
		return // set SECEXEC_LONG=1 (make test-long): a crash, too
	}
	// A guest that is killed leaves sectors in the journal: it comes back, and its
	// owner opens the disk.
	if _, err := n.c.Kill(t.Context(), "whole"); err != nil {
		t.Error(err)
	}
	n.settled("whole")
	openIntegrity(t, disk, bundle, "")
	if out, err := n.secexec("start", "whole", "--identity", bundle+"-secrets/identity.pub"); err != nil {
		t.Errorf("start after a crash: %v\n%s", err, out)
	}
}

// openIntegrity opens a used root as its owner does. /boots is boots, where that
// is not "": what was not synchronised before a crash may be lost.
func openIntegrity(t *testing.T, disk, bundle, boots string) {
	t.Helper()
	plain := filepath.Join(t.TempDir(), "plain.ext4")
	if out, err := exec.Command(filepath.Join(lab.dir, "secexec"), "disk", "open", disk, "--key-file", bundle+"-secrets/disk.key", "-o", plain).CombinedOutput(); err != nil {
		t.Errorf("disk open: %v\n%s", err, out)
		return
	}
	e2fs := func(args ...string) ([]byte, error) {
		path, err := exec.LookPath(args[0])
		if err != nil {
			path = "/usr/sbin/" + args[0]
		}
		return exec.Command(path, args[1:]...).Output()
	}
	out, err := e2fs("e2fsck", "-fp", plain) // replays the file system's own journal
	t.Logf("e2fsck: %v\n%s", err, out)
	if out, err := e2fs("debugfs", "-R", "cat /boots", plain); boots != "" && (err != nil || string(out) != boots) {
		t.Errorf("/boots on the owner's side: %q %v", out, err)
	}
}

// journalled is how many sectors stand in a disk's dm-integrity journal.
func journalled(t *testing.T, path string) int {
	t.Helper()
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	device := bytes.NewReader(disk[16<<20:])
	l, err := dmintegrity.Read(device, device.Size())
	if err != nil {
		t.Fatal(err)
	}
	j, err := l.ReadJournal(device)
	if err != nil {
		t.Fatal(err)
	}
	return j.Len()
}

// superblock is a disk's dm-integrity superblock.
func superblock(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	if _, err := f.ReadAt(b, 16<<20); err != nil {
		t.Fatal(err)
	}
	return b
}

// dataOf decrypts a disk of the bundle as its owner does, and returns its device.
func dataOf(t *testing.T, disk, keyFile string) ([]byte, dmintegrity.Layout) {
	t.Helper()
	plain := filepath.Join(t.TempDir(), "plain")
	if out, err := exec.Command(filepath.Join(lab.dir, "secexec"), "disk", "open", disk, "--key-file", keyFile, "-o", plain).CombinedOutput(); err != nil {
		t.Fatalf("disk open: %v\n%s", err, out)
	}
	data, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	size := info.Size() - 16<<20
	l, err := dmintegrity.Read(io.NewSectionReader(f, 16<<20, size), size)
	if err != nil {
		t.Fatal(err)
	}
	return data, l
}

// sectorOf finds the one sector of a file system that starts so.
func sectorOf(t *testing.T, data, start []byte) int64 {
	t.Helper()
	for at := 0; at < len(data); at += 4096 {
		if bytes.HasPrefix(data[at:], start) {
			return int64(at)
		}
	}
	t.Fatalf("no sector starts with %.40q", start)
	return 0
}

// spoilFile flips a bit of the sector of a disk that starts so, in a copy of the
// disk that takes its place.
func spoilFile(t *testing.T, disk, bundle, key string, start []byte) {
	t.Helper()
	plain, l := dataOf(t, disk, filepath.Join(bundle+"-secrets", key))
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	b[16<<20+l.Data(sectorOf(t, plain, start))] ^= 1
	if err := os.WriteFile(disk+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(disk+".new", disk); err != nil {
		t.Fatal(err)
	}
}
