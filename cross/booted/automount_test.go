package booted

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/bootdisk"
	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/owner"
)

// A host adds a partition in plain text, of the type that systemd mounts at
// /srv by itself: systemd-gpt-auto-generator did so until guestinit masked it.
func TestHostsPartitionIsNotMounted(t *testing.T) {
	t.Parallel()
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-long)")
	}
	if lab.skip != "" {
		t.Skip(lab.skip)
	}
	tar := filepath.Join(lab.cache, "roots/debian.tar")
	if _, err := os.Stat(tar); err != nil {
		t.Skip("no Debian root in the cache: run cross/setup.sh")
	}
	plan, err := plan("automount", tar, "host-a", 1024)
	if err != nil {
		t.Fatal(err)
	}
	plan.BootableDisk = filepath.Join(t.TempDir(), "disk.raw")
	plan.Cmdline = owner.DefaultCmdline(3) + " systemd.show_status=1" // units that start or mount something say so
	if _, err := owner.Build(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Open(plan.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	srv := filepath.Join(t.TempDir(), "srv.img")
	if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", srv, "16M").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	plain, err := os.ReadFile(srv)
	if err != nil {
		t.Fatal(err)
	}
	d := &sealedDisk{path: plan.BootableDisk, image: filepath.Join(plan.Bundle, "boot.seimg"), manifest: b.Manifest}
	n := newNode(t)
	err = n.launch(d.bundle(t, func(f *os.File) error { return addPartition(f, "3b8f8425-20e0-4f3b-907f-1a25a76f98e8", plain) }), "g")
	if err != nil {
		t.Fatal(err)
	}
	console := n.says("g", "hello from the sealed guest")
	if !strings.Contains(console, "Reached target") {
		t.Errorf("systemd does not say what it starts:\n%s", console)
	}
	if strings.Contains(console, "srv.mount") {
		t.Errorf("the host's partition is mounted:\n%s", console)
	}
}

// addPartition lets a disk grow by a partition of some type.
func addPartition(disk *os.File, typeGUID string, content []byte) error {
	info, err := disk.Stat()
	if err != nil {
		return err
	}
	table, err := bootdisk.ReadTable(disk, info.Size())
	if err != nil {
		return err
	}
	kind, err := bootdisk.ParseGUID(typeGUID)
	if err != nil {
		return err
	}
	const mebi = 1 << 20
	start := (table.Size + mebi - 1) / mebi * mebi
	table.Partitions = append(table.Partitions, bootdisk.Partition{ID: bootdisk.NewGUID(), Type: kind, Name: "srv", Start: start, Size: int64(len(content))})
	table.Size = start + int64(len(content)) + mebi
	if err := disk.Truncate(table.Size); err != nil {
		return err
	}
	if _, err := disk.WriteAt(content, start); err != nil {
		return err
	}
	return table.Write(disk)
}
