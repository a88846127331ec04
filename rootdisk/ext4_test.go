package rootdisk

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/rootdisk/ext4"
	"github.com/secexec/secexec/secret"
)

// plainOf makes a disk with a fixed key and ID and returns its payload, decrypted.
func plainOf(t *testing.T, source string) []byte {
	t.Helper()
	disk, plain := filepath.Join(t.TempDir(), "root.img"), filepath.Join(t.TempDir(), "plain")
	if _, err := Create(t.Context(), disk, Options{Source: source, Size: 12 << 20, ID: [16]byte{1}, Key: testKey, Passphrase: testPass}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Open(t.Context(), f, plain, nil, append(secret.Bytes(nil), testKey...)); err != nil {
		t.Fatal(err)
	}
	return must(os.ReadFile(plain))
}

// folderOf writes the files of a folder, all of one time.
func folderOf(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	when := time.Unix(1700000000, 0)
	if err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error { return os.Chtimes(path, when, when) }); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The same files give the same file system, whenever and wherever they lie; a
// change leaves the blocks of the others as they are.
func TestFileSystemIsReproducible(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	files := map[string][]byte{"etc/conf": []byte("one"), "init": []byte("#!"), "link": []byte("x")}
	for _, name := range []string{"a", "m", "z"} {
		files["data/"+name] = bytes.Repeat([]byte(name), 300<<10)
	}
	first, second := plainOf(t, folderOf(t, files)), plainOf(t, folderOf(t, files))
	if !bytes.Equal(first, second) {
		t.Error("two file systems of the same files differ")
	}
	files["etc/conf"] = []byte("another one")
	changed, blocks := plainOf(t, folderOf(t, files)), 0
	if len(changed) != len(first) {
		t.Fatalf("%d bytes became %d", len(first), len(changed))
	}
	for at := 0; at < len(first); at += 4096 {
		if !bytes.Equal(first[at:at+4096], changed[at:at+4096]) {
			blocks++
		}
	}
	if blocks != 2 { // the file's inode and its content
		t.Errorf("a changed file changes %d blocks", blocks)
	}
}

// Times beyond 2038, large owners, devices with all their names, and all four
// times: what mke2fs can't know of a staged tree.
func TestInodesAreAsTold(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	far := time.Date(2200, 1, 2, 3, 4, 5, 0, time.UTC)
	_, plain, _ := decrypted(t, archive(t,
		tar.Header{Name: "far", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: far, Uid: 1<<31 + 5, Gid: 70000},
		tar.Header{Name: "dev/disk", Typeflag: tar.TypeBlock, Mode: 0o660, Devmajor: 300, Devminor: 70000},
		tar.Header{Name: "dev/again", Typeflag: tar.TypeLink, Linkname: "dev/disk"},
		tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600},
	))
	for command, want := range map[string][]string{
		"stat /far":       {"User: -2147483643" /* as debugfs prints 1<<31 + 5 */, "Group: 70000", "mtime: 0xb09f95a5:00000002 -- Thu Jan  2 03:04:05 2200", "crtime: 0xb09f95a5:00000002 -- Thu Jan  2 03:04:05 2200", "atime: 0xb09f95a5:00000002 -- Thu Jan  2 03:04:05 2200"},
		"stat /dev/disk":  {"Type: block special", "Links: 2", "300:70000"},
		"stat /dev/again": {"Type: block special"},
		"stat /pipe":      {"Type: FIFO"},
		"stat /":          {"ctime: 0x00000000"},
	} {
		got := debugfs(t, plain, command)
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %q in\n%s", command, w, got)
			}
		}
	}
}

// A folder that changes between the look at it and its copy is refused.
func TestChangedSource(t *testing.T) {
	t.Parallel()
	change := map[string]func(dir string) error{
		"grows": func(dir string) error { return os.WriteFile(filepath.Join(dir, "a"), []byte("longer"), 0o644) },
		"goes":  func(dir string) error { return os.Remove(filepath.Join(dir, "a")) },
		"comes": func(dir string) error { return os.WriteFile(filepath.Join(dir, "b"), nil, 0o644) },
		"mode":  func(dir string) error { return os.Chmod(filepath.Join(dir, "a"), 0o600) },
		"a link": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "a")), os.Symlink("/etc/shadow", filepath.Join(dir, "a")))
		},
	}
	for name, f := range change {
		tree := openFolder(folderOf(t, map[string][]byte{"a": []byte("x")}), maxContent)
		if err := errors.Join(tree.addFolder(t.Context(), tree.dir, nil), tree.unchanged()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Millisecond) // a tick of the clock that stamps files
		if err := f(tree.dir); err != nil {
			t.Fatal(err)
		}
		if err := tree.unchanged(); !errors.Is(err, ErrSource) || !strings.Contains(err.Error(), "changed while it was read") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A disk can't lie in the folder that it is made of.
func TestDiskInItsSource(t *testing.T) {
	t.Parallel()
	dir := folderOf(t, map[string][]byte{"etc/conf": []byte("x")})
	_, err := Create(t.Context(), filepath.Join(dir, "etc", "root.img"), Options{Source: dir, Passphrase: testPass})
	if !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), "lies in its source") {
		t.Errorf("got %v", err)
	}
}

// Holes of a file, however the source stores them, take no room.
func TestHolesTakeNoRoom(t *testing.T) {
	t.Parallel()
	dir := folderOf(t, map[string][]byte{"x": nil})
	if err := os.Truncate(filepath.Join(dir, "x"), 1<<32); err != nil {
		t.Fatal(err)
	}
	tree := openFolder(dir, maxContent)
	if err := tree.addFolder(t.Context(), dir, nil); err != nil {
		t.Fatal(err)
	}
	if n := tree.need(); n > 64<<10 {
		t.Errorf("a hole of 4 GiB takes %d bytes", n)
	}
}

// Of a sparse disk all that is in use is there, and room is saved; a file system
// that is no ext4 has no such form.
func TestSparse(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	dir := folderOf(t, map[string][]byte{"etc/conf": bytes.Repeat([]byte("x"), 100000)})
	create := func(o Options) (*os.File, []byte, error) {
		o.ID, o.Key, o.Passphrase = [16]byte{1}, testKey, testPass
		path := filepath.Join(t.TempDir(), "root.img")
		if _, err := Create(t.Context(), path, o); err != nil {
			return nil, nil, err
		}
		f := must(os.Open(path))
		t.Cleanup(func() { f.Close() })
		if _, err := Open(t.Context(), f, path+".plain", nil, append(secret.Bytes(nil), testKey...)); err != nil {
			return nil, nil, err
		}
		return f, must(os.ReadFile(path + ".plain")), nil
	}
	full, whole, err := create(Options{Source: dir, Size: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	holed, plain, err := create(Options{Source: dir, Size: 16 << 20, Sparse: true})
	if err != nil {
		t.Fatal(err)
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Fstat(int(full.Fd()), &a), unix.Fstat(int(holed.Fd()), &b)); err != nil {
		t.Fatal(err)
	}
	if a.Blocks*512 < 16<<20 || b.Blocks*512 > 8<<20 || a.Size != b.Size {
		t.Errorf("of %d bytes %d are stored, sparse %d", a.Size, a.Blocks*512, b.Blocks*512)
	}
	fs, err := ext4.Open(bytes.NewReader(plain), int64(len(plain)))
	if err != nil {
		t.Fatal(err)
	}
	used, err := fs.Used()
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(whole); at += 4096 {
		if used.Range(int64(at), 4096) && !bytes.Equal(whole[at:at+4096], plain[at:at+4096]) {
			t.Fatalf("block %d is in use and not what it is in the whole disk", at/4096)
		}
	}
	xfs := filepath.Join(t.TempDir(), "xfs")
	if err := os.WriteFile(xfs, append([]byte("XFSB"), make([]byte, 1<<20-4)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := create(Options{Source: xfs, Sparse: true}); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), "of its xfs") {
		t.Errorf("xfs: %v", err)
	}
}

// The old compression and the sparse files of tar, by the programs that write them.
func TestTarPrograms(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	for _, program := range []string{"tar", "bzip2"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	content := bytes.Repeat([]byte("data"), 1024)
	dir := folderOf(t, map[string][]byte{"sparse": content})
	f, err := os.OpenFile(filepath.Join(dir, "sparse"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(content, 1<<20)
	if err := errors.Join(err, f.Truncate(2<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	want := must(os.ReadFile(filepath.Join(dir, "sparse")))
	for _, format := range []string{"--format=gnu", "--format=pax"} {
		path := filepath.Join(t.TempDir(), "root.tar.bz2")
		if out, err := exec.Command("tar", format, "--sparse", "-cjf", path, "-C", dir, ".").CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
		_, plain, _ := decrypted(t, path)
		dumped := filepath.Join(t.TempDir(), "sparse")
		debugfs(t, plain, "dump /sparse "+dumped)
		if got, err := os.ReadFile(dumped); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: the file came as %d bytes: %v", format, len(got), err)
		}
	}
}
