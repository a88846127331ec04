package rootdisk

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/aes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/xts"
	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/e2fs"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/rootdisk/luks2"
	"github.com/secexec/secexec/secret"
)

var (
	testKey  = secret.Bytes(append(bytes.Repeat([]byte{0x11}, 32), bytes.Repeat([]byte{0x22}, 32)...))
	testPass = secret.Bytes(bytes.Repeat([]byte{0x33}, 64))
)

func need(t *testing.T, program string) {
	t.Helper()
	if _, err := e2fs.Find(program); err != nil {
		t.Skipf("%s is not installed", program)
	}
}

// archive writes a tar and returns its path.
func archive(t *testing.T, headers ...tar.Header) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, h := range headers {
		body := strings.Repeat("x", int(h.Size))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// decrypted makes a disk and returns its file system, decrypted by x/crypto.
func decrypted(t *testing.T, source string) (disk, plain string, v *Volume) {
	t.Helper()
	disk = filepath.Join(t.TempDir(), "root.img")
	v, err := Create(t.Context(), disk, Options{Source: source, Size: 12 << 20, Key: testKey, Passphrase: testPass})
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(disk), ".*")); len(left) > 0 {
		t.Errorf("left beside the disk: %v", left)
	}
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != v.Offset+v.Size {
		t.Errorf("disk has %d bytes, wants %d", len(b), v.Offset+v.Size)
	}
	c, err := xts.NewCipher(aes.NewCipher, testKey)
	if err != nil {
		t.Fatal(err)
	}
	payload := b[v.Offset:]
	for at := 0; at < len(payload); at += 4096 {
		c.Decrypt(payload[at:at+4096], payload[at:at+4096], uint64(at/512))
	}
	plain = filepath.Join(t.TempDir(), "plain.ext4")
	if err := os.WriteFile(plain, payload, 0o600); err != nil {
		t.Fatal(err)
	}
	return disk, plain, v
}

func debugfs(t *testing.T, image, command string) string {
	t.Helper()
	path, err := e2fs.Find("debugfs")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, "-R", command, image).CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func sampleTar(t *testing.T) string {
	return archive(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./etc/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 7, Gid: 100000},
		tar.Header{Name: "./etc/odd \"name\"", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 1000, Gid: 42, Size: 5000},
		tar.Header{Name: "./etc/again", Typeflag: tar.TypeLink, Linkname: "./etc/odd \"name\""},
		tar.Header{Name: "./bin/su", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 3},
		tar.Header{Name: "./bin/ping", Typeflag: tar.TypeReg, Mode: 0o755, Size: 3, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
		tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "./sbin", Typeflag: tar.TypeSymlink, Linkname: "/bin"},
	)
}

func TestCreateFromTar(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	_, plain, v := decrypted(t, sampleTar(t))
	if v.Entries != 10 { // bin and dev are implied
		t.Errorf("%d entries", v.Entries)
	}
	for command, want := range map[string][]string{
		"stat /etc":                      {"Mode:  0750", "User:     7", "Group: 100000"},
		"stat \"/etc/odd \"\"name\"\"\"": {"Mode:  0640", "User:  1000", "Group:    42", "Links: 2", "Size: 5000"},
		"stat /etc/again":                {"User:  1000", "Links: 2"},
		"stat /bin/su":                   {"Mode:  04755", "User:     0"},
		"stat /dev/null":                 {"Type: character special", "Mode:  0666", "Device major/minor number: 01:03"},
		"stat /sbin":                     {"Type: symlink", "Fast link dest: \"/bin\""},
		"ea_list /bin/ping":              {"security.capability (20)"},
		"stats -h":                       {"Filesystem OS type:       Linux", "has_journal", "metadata_csum"},
	} {
		got := debugfs(t, plain, command)
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %q in\n%s", command, w, got)
			}
		}
	}
	e2fsck, err := e2fs.Find("e2fsck")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(e2fsck, "-fn", plain).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

// What we believe of cryptsetup: it takes the header, and its volume key is ours.
func TestPremiseCryptsetup(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	need(t, "cryptsetup")
	disk, _, v := decrypted(t, sampleTar(t))
	dir := t.TempDir()
	keyFile, dumped := filepath.Join(dir, "disk.key"), filepath.Join(dir, "volume.key")
	if err := os.WriteFile(keyFile, testPass, 0o600); err != nil {
		t.Fatal(err)
	}
	cryptsetup := func(args ...string) string {
		out, err := exec.Command("cryptsetup", args...).CombinedOutput()
		if err != nil {
			t.Errorf("cryptsetup %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	dump := cryptsetup("luksDump", disk)
	for _, want := range []string{"Version:       \t2", luks2.FormatUUID(v.ID), "cipher: aes-xts-plain64", "sector: 4096 [bytes]", "offset: 16777216 [bytes]"} {
		if !strings.Contains(dump, want) {
			t.Errorf("luksDump: no %q in\n%s", want, dump)
		}
	}
	cryptsetup("open", "--test-passphrase", "--key-file", keyFile, disk)
	cryptsetup("luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", dumped, "--key-file", keyFile, disk)
	if got, err := os.ReadFile(dumped); err != nil || !bytes.Equal(got, testKey) {
		t.Errorf("cryptsetup's volume key differs: %v", err)
	}
	if err := os.WriteFile(keyFile, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", keyFile, disk).Run() == nil {
		t.Error("a wrong key opens the disk")
	}
}

func TestCreateFromFolder(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/b/file": 0o640, "run": 0o755} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("content"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Link(filepath.Join(dir, "run"), filepath.Join(dir, "zz")), os.Symlink("../../outside", filepath.Join(dir, "a/link"))); err != nil {
		t.Fatal(err)
	}
	_, plain, _ := decrypted(t, dir)
	for command, want := range map[string]string{
		"stat /zz": "Links: 2", "stat /a/link": "\"../../outside\"", "cat /a/b/file": "content", "stat /run": "Mode:  0755",
	} {
		if got := debugfs(t, plain, command); !strings.Contains(got, want) {
			t.Errorf("%s: no %q in\n%s", command, want, got)
		}
	}
}

func TestRefusedSources(t *testing.T) {
	t.Parallel()
	reg := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }
	link := func(name, to string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to} }
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, bytes.Repeat([]byte("no archive "), 100), 0o644); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"dot dot":               archive(t, reg("../escape")),
		"dot dot inside":        archive(t, reg("a/../../escape")),
		"absolute":              archive(t, reg("/etc/passwd")),
		"absolute hard link":    archive(t, reg("a"), link("b", "/etc/shadow")),
		"hard link out":         archive(t, reg("a"), link("b", "../../etc/shadow")),
		"hard link to nothing":  archive(t, link("b", "a")),
		"below a file":          archive(t, reg("a"), reg("a/b")),
		"below a symbolic link": archive(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, reg("l/etc/passwd")),
		"twice":                 archive(t, reg("a"), reg("a")),
		"line feed":             archive(t, reg("a\nsif /etc/shadow mode 0100777")),
		"empty archive":         archive(t),
		"no archive":            text,
		"a device":              "/dev/null",
	}
	for name, source := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			_, err := Create(t.Context(), filepath.Join(dir, "root.img"), Options{Source: source, Passphrase: testPass})
			if !errors.Is(err, ErrSource) {
				t.Errorf("got %v", err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestRefusedOptions(t *testing.T) {
	t.Parallel()
	source := sampleTar(t)
	dir := t.TempDir()
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		path string
		o    Options
		want error
	}{
		"no pass phrase": {"x", Options{Source: source}, ErrOptions},
		"short key":      {"x", Options{Source: source, Passphrase: testPass, Key: testKey[:32]}, ErrOptions},
		"odd size":       {"x", Options{Source: source, Passphrase: testPass, Size: 12345}, ErrOptions},
		"no source":      {"x", Options{Source: filepath.Join(dir, "absent"), Passphrase: testPass}, os.ErrNotExist},
		"name taken":     {"taken", Options{Source: source, Passphrase: testPass}, outfile.ErrExists},
	}
	for name, c := range cases {
		if _, err := Create(t.Context(), filepath.Join(dir, c.path), c.o); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := e2fs.Find("mke2fs"); err == nil {
		big := archive(t, tar.Header{Name: "big", Typeflag: tar.TypeReg, Mode: 0o644, Size: 16 << 20})
		if _, err := Create(t.Context(), filepath.Join(dir, "x"), Options{Source: big, Passphrase: testPass, Size: 8 << 20}); err == nil {
			t.Error("16 MiB fit into 8 MiB")
		}
	}
	if left := len(must(os.ReadDir(dir))); left != 1 {
		t.Errorf("%d files left", left)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestCancelLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if _, err := Create(ctx, filepath.Join(dir, "root.img"), Options{Source: sampleTar(t), Passphrase: testPass}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left := must(os.ReadDir(dir)); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// A disk that fills up half way: a sentence, and nothing left.
func TestFullDisk(t *testing.T) {
	need(t, "mke2fs")
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("can't mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	_, err := Create(t.Context(), filepath.Join(dir, "root.img"), Options{Source: sampleTar(t), Size: 32 << 20, Passphrase: testPass})
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, e2fs.ErrFailed) {
		t.Errorf("got %v", err)
	}
	if left := must(os.ReadDir(dir)); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
