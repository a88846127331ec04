package booted

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/bootdisk"
	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/secret"
)

// A host adds a partition in plain text, of the type that systemd mounts at
// /srv by itself: systemd-gpt-auto-generator did so until guestinit masked it.
func TestHostsPartitionIsNotMounted(t *testing.T) {
	t.Parallel()
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-long)")
	}
	small := disk(t)
	tar := filepath.Join(lab.cache, "roots/debian.tar")
	if _, err := os.Stat(tar); err != nil {
		t.Skip("no Debian root in the cache: run cross/setup.sh")
	}
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	key := secret.Random(sealed.KeySize)
	made, err := rootdisk.Create(t.Context(), path("root.img"), rootdisk.Options{Source: tar, Key: key, Passphrase: secret.Random(64)})
	if err != nil {
		t.Fatal(err)
	}
	root, srv := bootdisk.NewGUID(), bootdisk.NewGUID()
	record := &sealed.Record{
		ImageID: [16]byte(secret.Random(16)), IdentitySeed: secret.Random(32), Init: "/sbin/init", StopSignal: 38,
		Root: sealed.Volume{
			ID: made.ID, PartUUID: root, Key: key, Cipher: sealed.Cipher,
			Offset: uint64(made.Offset), Size: uint64(made.Size), FSType: "ext4",
		},
	}
	// Units that start or mount something say so on the console.
	if err := sealImage(t, path("boot.seimg"), "systemd.show_status=1", record); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", path("srv.img"), "16M").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	table, err := bootdisk.Create(t.Context(), path("disk.raw"), bootdisk.Options{
		Images:  []string{path("boot.seimg")},
		Volumes: []bootdisk.Volume{{ID: root, Name: "root", Path: path("root.img")}, {ID: srv, Name: "srv", Path: path("srv.img")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := &sealedDisk{path: path("disk.raw"), image: path("boot.seimg"), table: table, manifest: small.manifest}
	d.manifest.MemoryMiB = 1024
	n := newNode(t)
	err = n.launch(d.bundle(t, func(f *os.File) error {
		forged := *table
		forged.Partitions = append([]bootdisk.Partition(nil), table.Partitions...)
		if forged.Partitions[2].Type, err = bootdisk.ParseGUID("3b8f8425-20e0-4f3b-907f-1a25a76f98e8"); err != nil {
			return err
		}
		return forged.Write(f)
	}), "g")
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
