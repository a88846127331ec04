package rootdisk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/e2fs"
	"github.com/secexec/secexec/secret"
)

// plainEROFS makes an erofs disk of a source and returns its payload, decrypted.
func plainEROFS(t *testing.T, source string, size int64) (string, *Volume) {
	t.Helper()
	disk, plain := filepath.Join(t.TempDir(), "root.img"), filepath.Join(t.TempDir(), "plain")
	v, err := Create(t.Context(), disk, Options{Source: source, Size: size, FSType: "erofs", ID: [16]byte{1}, Key: testKey, Passphrase: testPass, Label: "fifteen bytes.."})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := Open(t.Context(), f, plain, nil, append(secret.Bytes(nil), testKey...)); err != nil || n != v.Size || v.FSType != "erofs" {
		t.Fatalf("volume %+v of %d bytes: %v", v, n, err)
	}
	return plain, v
}

// An erofs of a tar and of a folder, as erofs-utils read it.
func TestEROFS(t *testing.T) {
	t.Parallel()
	fsck, err := e2fs.Find("fsck.erofs")
	if err != nil {
		t.Skip("no fsck.erofs: Debian package erofs-utils")
	}
	extract := func(image string) string {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "out")
		if out, err := exec.Command(fsck, "--extract="+dir, "--no-preserve", image).CombinedOutput(); err != nil && os.Geteuid() == 0 {
			t.Fatalf("%v\n%s", err, out)
		}
		return dir
	}
	plain, v := plainEROFS(t, sampleTar(t), 0)
	if v.Entries != 10 || v.Size != 3*4096 { // superblock, inodes with short contents, the first 4096 bytes of a longer one
		t.Errorf("%d entries in %d bytes", v.Entries, v.Size)
	}
	dir := extract(plain)
	for _, name := range []string{`etc/odd "name"`, "etc/again"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(text) != strings.Repeat("x", 5000) {
			t.Errorf("%s holds %d bytes: %v", name, len(text), err)
		}
	}
	source := folderOf(t, map[string][]byte{"etc/conf": []byte("one")})
	first, v := plainEROFS(t, source, 1<<20)
	if text, err := os.ReadFile(filepath.Join(extract(first), "etc/conf")); err != nil || string(text) != "one" || v.Size != 1<<20 {
		t.Errorf("etc/conf is %q of %d bytes: %v", text, v.Size, err)
	}
	if again, _ := plainEROFS(t, source, 1<<20); string(must(os.ReadFile(again))) != string(must(os.ReadFile(first))) {
		t.Error("two file systems of the same files differ")
	}
}

func TestEROFSRefusals(t *testing.T) {
	t.Parallel()
	source := folderOf(t, map[string][]byte{"big": make([]byte, 2<<20)})
	for name, o := range map[string]Options{
		"too small": {Source: source, Size: 1 << 20, FSType: "erofs"}, "empty": {Size: 4 << 20, FSType: "erofs"}, "unknown": {Source: source, FSType: "zfs"},
	} {
		o.Passphrase = testPass
		if _, err := Create(t.Context(), filepath.Join(t.TempDir(), "x"), o); !errors.Is(err, ErrOptions) && !errors.Is(err, ErrSource) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Folders to mount on are added, and asked for where they can't be.
func TestMissingFolders(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	source := folderOf(t, map[string][]byte{"etc/conf": []byte("one"), "sys/x": nil})
	for _, c := range []struct {
		fsType, source, want string
		folders              []string
	}{
		{"erofs", source, "", []string{"/dev", "/sys", "/srv/data", "/srv/more"}},
		{"ext4", sampleTar(t), "", []string{"/dev", "/proc", "/srv/data"}},
		{"ext4", source, "no folder /dev to mount on", []string{"/sys", "/dev"}},
		{"erofs", source, "/etc/conf is to be mounted on and is no folder", []string{"/etc/conf"}},
	} {
		v, err := Create(t.Context(), filepath.Join(t.TempDir(), "x"), Options{Source: c.source, Folders: c.folders, FSType: c.fsType, Passphrase: testPass})
		switch {
		case c.want != "":
			if !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s with %v: %v", c.fsType, c.folders, err)
			}
		case err != nil:
			t.Error(err)
		case c.fsType == "erofs" && v.Entries != 9 || c.fsType == "ext4" && v.Entries != 13:
			t.Errorf("%s: %d entries", c.fsType, v.Entries)
		}
	}
}
