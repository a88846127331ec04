package rootdisk

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/secexec/secexec/e2fs"
	"github.com/secexec/secexec/secret"
)

// A volume with a hash tree: veritysetup verifies what cryptsetup would open,
// file system and tree have the same root hash again, and one changed bit is
// found.
func TestHashTree(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	source := folderOf(t, map[string][]byte{"etc/conf": []byte("one"), "data": bytes.Repeat([]byte("x"), 300<<10)})
	make := func() (string, *Volume) {
		disk, plain := filepath.Join(t.TempDir(), "root.img"), filepath.Join(t.TempDir(), "plain")
		v, err := Create(t.Context(), disk, Options{Source: source, Size: 12 << 20, ID: [16]byte{1}, Key: testKey, Passphrase: testPass, Verity: true})
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(disk)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		size, err := Open(t.Context(), f, plain, nil, append(secret.Bytes(nil), testKey...))
		if err != nil || size != v.Size {
			t.Fatalf("%d bytes, wants %d: %v", size, v.Size, err)
		}
		return plain, v
	}
	plain, v := make()
	h := v.HashTree
	if h == nil || h.DataSize != 12<<20 || h.Offset != 12<<20+4096 || v.Size != 12<<20+(1+1+24)*4096 {
		t.Fatalf("volume is %+v, tree %+v", v, h)
	}
	if _, err := run(t.Context(), must(os.Open(plain)), nil, "e2fsck", "-fn", e2fs.Image); err != nil {
		t.Error(err)
	}
	if _, again := make(); again.HashTree.RootHash != h.RootHash {
		t.Error("the same files have another root hash")
	}
	program, err := e2fs.Find("veritysetup")
	if err != nil {
		t.Skip("no veritysetup: Debian package cryptsetup-bin")
	}
	verify := func() error {
		return exec.Command(program, "verify", plain, plain, hex.EncodeToString(h.RootHash[:]), "--hash-offset="+strconv.FormatInt(h.DataSize, 10)).Run()
	}
	if err := verify(); err != nil {
		t.Error(err)
	}
	b := must(os.ReadFile(plain))
	b[5<<20] ^= 1
	if err := os.WriteFile(plain, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if verify() == nil {
		t.Error("a changed bit is not found")
	}
}

func TestHashTreeHasNoHoles(t *testing.T) {
	t.Parallel()
	_, err := Create(t.Context(), filepath.Join(t.TempDir(), "x"), Options{Size: 4 << 20, Verity: true, Sparse: true, Passphrase: testPass})
	if !errors.Is(err, ErrOptions) {
		t.Errorf("got %v", err)
	}
}

// A file system image that was not unmounted can't be a read-only root.
func TestUnfinishedImage(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	image := filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 8<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := (e2fs.Call{Program: "mke2fs", Args: []string{"-q", "-F", "-t", "ext4", image}}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	create := func(o Options) error {
		o.Source, o.Passphrase = image, testPass
		_, err := Create(t.Context(), filepath.Join(t.TempDir(), "x"), o)
		return err
	}
	for _, o := range []Options{{}, {Verity: true}, {ReadOnly: true}} {
		if err := create(o); err != nil {
			t.Error(err)
		}
	}
	b := must(os.ReadFile(image))
	b[1024+96] |= 4
	if err := os.WriteFile(image, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{{Verity: true}, {ReadOnly: true}} {
		if err := create(o); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), "was not unmounted") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if err := create(Options{}); err != nil {
		t.Error(err)
	}
}

// An ext4 that is never written to has neither journal nor head-room, and is
// sound all the same.
func TestFullExt4(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	files := map[string][]byte{"data": bytes.Repeat([]byte("x"), 20<<20)}
	for i := range 500 {
		files["many/"+strconv.Itoa(i)] = bytes.Repeat([]byte("y"), i*10)
	}
	source := folderOf(t, files)
	make := func(o Options) (int64, string) {
		o.Source, o.Key, o.Passphrase = source, testKey, testPass
		disk, plain := filepath.Join(t.TempDir(), "x"), filepath.Join(t.TempDir(), "plain")
		v, err := Create(t.Context(), disk, o)
		if err != nil {
			t.Fatal(err)
		}
		f := must(os.Open(disk))
		defer f.Close()
		if _, err := Open(t.Context(), f, plain, nil, append(secret.Bytes(nil), testKey...)); err != nil {
			t.Fatal(err)
		}
		if _, err := run(t.Context(), must(os.Open(plain)), nil, "e2fsck", "-fn", e2fs.Image); err != nil {
			t.Error(err)
		}
		return v.Size, debugfs(t, plain, "stats -h")
	}
	full, stats := make(Options{ReadOnly: true})
	if full > 32<<20 || strings.Contains(stats, "has_journal") {
		t.Errorf("read-only it has %d bytes\n%s", full, stats)
	}
	roomy, stats := make(Options{})
	if roomy < 100<<20 || !strings.Contains(stats, "has_journal") {
		t.Errorf("else it has %d bytes\n%s", roomy, stats)
	}
}
