package erofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/e2fs"
)

func file(content string) *Node {
	return &Node{Mode: typeFile | 0o644, MTime: 1700000000, Size: int64(len(content)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

func folder(kids map[string]*Node) *Node {
	return &Node{Mode: typeFolder | 0o755, MTime: 1700000000, Kids: kids}
}

// sample has every type, sizes around each bound, and a folder of many blocks.
func sample() (root *Node, contents map[string]string) {
	contents = make(map[string]string)
	kids := make(map[string]*Node)
	for _, n := range []int{0, 1, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 1<<20 - 1, 1 << 20, 1<<20 + 4096, 3<<20 + 5} {
		text := strings.Repeat(fmt.Sprintf("<%d>", n), n/3+1)[:n]
		contents[fmt.Sprintf("sizes/%d", n)] = text
		kids[fmt.Sprint(n)] = file(text)
	}
	many := make(map[string]*Node)
	for i := range 1000 {
		name := fmt.Sprintf("%s%d", strings.Repeat("-n+", 1+i%20), i)
		many[name] = file(name)
		contents["many/"+name] = name
	}
	odd := file("odd")
	odd.Mode, odd.UID, odd.GID = typeFile|0o4711, 1<<31+5, 70000
	odd.Xattrs = []Xattr{{"user.long", bytes.Repeat([]byte("v"), 5000)}, {"security.capability", []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}}
	contents["odd"], contents["again"] = "odd", "odd"
	link := strings.Repeat("../", 30) + "sizes/1"
	return folder(map[string]*Node{
		"sizes": folder(kids), "many": folder(many), "odd": odd, "again": odd, "empty": folder(nil),
		"link": {Mode: typeSymlink | 0o777, Target: link},
		"null": {Mode: typeChar | 0o666, Major: 1, Minor: 3}, "disk": {Mode: typeBlock | 0o660, Major: 300, Minor: 70000},
		"pipe": {Mode: typePipe | 0o600},
	}), contents
}

func image(t testing.TB, root *Node) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := Write(t.Context(), f, root, [16]byte{0: 0xaa, 15: 0xbb}, "label")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != size {
		t.Errorf("file is %v %v, wants %d bytes", info, err, size)
	}
	return f.Name()
}

// What erofs-utils, which share no code with this, read of an image.
func TestAsOthersReadIt(t *testing.T) {
	t.Parallel()
	fsck, err := e2fs.Find("fsck.erofs")
	if err != nil {
		t.Skip("no fsck.erofs: Debian package erofs-utils")
	}
	root, contents := sample()
	if os.Geteuid() != 0 { // it can't make device nodes
		delete(root.Kids, "null")
		delete(root.Kids, "disk")
	}
	img, dir := image(t, root), filepath.Join(t.TempDir(), "out")
	if out, err := exec.Command(fsck, "--extract="+dir, img).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	if mode := binary.LittleEndian.Uint16(b[blockSize+root.Kids["odd"].nid*slot+4:]); err != nil || mode != typeFile|0o4711 {
		t.Errorf("odd: mode 0%o", mode)
	}
	for name, want := range contents {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, wants %d: %v", name, len(got), len(want), err)
		}
	}
	if names, err := os.ReadDir(filepath.Join(dir, "many")); err != nil || len(names) != 1000 {
		t.Errorf("many holds %d names: %v", len(names), err)
	}
	if target, err := os.Readlink(filepath.Join(dir, "link")); err != nil || target != root.Kids["link"].Target {
		t.Errorf("link leads to %q: %v", target, err)
	}
	if os.Geteuid() == 0 {
		for name, n := range root.Kids {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
				t.Error(err)
			}
			if n.Mode&typeMask != typeSymlink && st.Mode != n.Mode&^0o7000 /* lost as it gives files away */ || st.Uid != n.UID || st.Gid != n.GID || unix.Major(st.Rdev) != n.Major || unix.Minor(st.Rdev) != n.Minor {
				t.Errorf("%s: mode 0%o owner %d:%d device %d:%d", name, st.Mode, st.Uid, st.Gid, unix.Major(st.Rdev), unix.Minor(st.Rdev))
			}
		}
	}
	dump, err := exec.Command("dump.erofs", "-s", "--path=/odd", img).CombinedOutput()
	for _, want := range []string{"Filesystem inode count:                       1022", "aa000000-0000-0000-0000-0000000000bb", "Links: 2", "Xattr size: 5", "Uid: 2147483653"} {
		if err == nil && os.Geteuid() == 0 && !strings.Contains(string(dump), want) {
			t.Errorf("dump.erofs does not say %q:\n%s", want, dump)
		}
	}
}

// The same nodes give the same bytes.
func TestReproducible(t *testing.T) {
	t.Parallel()
	var all [2][]byte
	for i := range all {
		root, _ := sample()
		b, err := os.ReadFile(image(t, root))
		if err != nil {
			t.Fatal(err)
		}
		all[i] = b
	}
	if !bytes.Equal(all[0], all[1]) {
		t.Error("two images differ")
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	short := file("short")
	short.Size = 100
	attr := func(name string, size int) *Node {
		n := file("x")
		n.Xattrs = []Xattr{{name, make([]byte, size)}}
		return n
	}
	for name, n := range map[string]*Node{
		"short content": short, "socket": {Mode: 0o140644},
		"attribute of no kind": attr("trusted2.x", 1), "kind without a name": attr("user.", 1), "list with more than its name": attr("system.posix_acl_access2", 1), "long value": attr("user.x", 1<<16),
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Write(t.Context(), f, folder(map[string]*Node{"n": n}), [16]byte{}, ""); !errors.Is(err, ErrNode) || !strings.Contains(err.Error(), "n: ") {
			t.Errorf("%s: %v", name, err)
		}
		f.Close()
	}
}
