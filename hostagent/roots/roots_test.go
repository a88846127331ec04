package roots

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes a root with what clients may try:
//
//	base/root/bundle/{file,fifo,sock,…}  base/root/…links…   base/secret
func tree(t *testing.T) (base string) {
	t.Helper()
	base, err := os.MkdirTemp("", "r") // short: sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if base, err = filepath.EvalSymlinks(base); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(base, name) }
	link := func(target, name string) error { return os.Symlink(target, at(name)) }
	write := func(name string) error { return os.WriteFile(at(name), []byte(name), 0o644) }
	l, err := net.Listen("unix", func() string { _ = os.MkdirAll(at("root/bundle"), 0o755); return at("root/bundle/sock") }())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	deep := "root"
	for range maxDepth + 1 {
		deep += "/d"
	}
	if err := errors.Join(
		os.Chmod(base, 0o755), os.MkdirAll(at("root2"), 0o755), os.MkdirAll(at(deep), 0o755), write("secret"), write("root2/file"), write("root/bundle/file"),
		unix.Mkfifo(at("root/bundle/fifo"), 0o644),
		link("bundle", "root/current"), link("current", "root/newest"), link(base+"/root/bundle", "root/absolute"),
		link("../root/bundle", "root/around"), link("d/../bundle", "root/updown"), link("..", "root/up"), link("../secret", "root/out"),
		link(base+"/secret", "root/outAbsolute"), link("/proc/self/root", "root/proc"), link("/", "root/slash"),
		link("loop", "root/loop"), link("../bundle/file", "root/bundle/linkInside"), link("nothing", "root/dangling"), link("root", "linked"),
	); err != nil {
		t.Fatal(err)
	}
	for i := range maxLinks + 1 {
		if err := link(fmt.Sprintf("chain%d", i+1), fmt.Sprintf("root/chain%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	return base
}

// Every trick with a path, as an administrator: only names matter.
func TestPaths(t *testing.T) {
	t.Parallel()
	base := tree(t)
	inside := Roots{base + "/root"}
	refused := ErrRefused
	for _, c := range []struct {
		roots Roots
		path  string // BASE stands for base
		want  error  // nil: reads root/bundle/file
	}{
		{inside, "BASE/root/bundle/file", nil},
		{inside, "BASE//root/./bundle///file", nil},
		{inside, "BASE/root/current/file", nil},
		{inside, "BASE/root/newest/file", nil},
		{inside, "BASE/root/absolute/file", nil},
		{inside, "BASE/root/updown/file", nil},
		{Roots{base + "/linked"}, "BASE/linked/bundle/file", nil},
		{Roots{"/"}, "BASE/root/bundle/file", nil},
		{Roots{"/"}, "BASE/root/around/file", nil},
		{Roots{"/srv", base + "/root/bundle", base}, "BASE/root/bundle/file", nil},
		{inside, "BASE/root/around/file", refused},
		{inside, "BASE/root/bundle/../bundle/file", refused},
		{inside, "BASE/root/../secret", refused},
		{inside, "BASE/secret", refused},
		{inside, "BASE/root2/file", refused},
		{inside, "BASE/root/up/secret", refused},
		{inside, "BASE/root/up/root/bundle/file", refused},
		{inside, "BASE/root/out", refused},
		{inside, "BASE/root/outAbsolute", refused},
		{inside, "BASE/root/slash" + base + "/secret", refused},
		{inside, "BASE/root/proc" + base + "/secret", refused},
		{Roots{"/proc"}, "/proc/self/root" + base + "/secret", refused},
		{Roots{"/proc"}, "/proc/self/cwd/roots.go", refused},
		{inside, "BASE/root/loop", refused},
		{inside, "BASE/root/chain0", refused},
		{inside, "BASE/root" + strings.Repeat("/d", maxDepth+1), refused},
		{inside, "BASE/root/bundle/fifo", refused},
		{inside, "BASE/root/bundle/sock", refused},
		{inside, "BASE/root/bundle", refused},
		{Roots{"/"}, "/dev/zero", refused},
		{inside, "BASE/root/bundle/file/", nil},
		{inside, "BASE/root/bundle/file/x", syscall.ENOTDIR},
		{inside, "BASE/root/none", os.ErrNotExist},
		{inside, "BASE/root/dangling", os.ErrNotExist},
		{inside, "BASE/root/" + strings.Repeat("n", 256), syscall.ENAMETOOLONG},
		{inside, "BASE/root/" + strings.Repeat("n/", maxPath), refused},
		{inside, "root/bundle/file", refused},
		{inside, "", refused},
		{inside, "BASE/root/bundle/file\x00", refused},
		{nil, "BASE/root/bundle/file", refused},
	} {
		path := strings.ReplaceAll(c.path, "BASE", base)
		f, err := c.roots.File(path, nil, os.O_RDONLY, false)
		if err == nil {
			text, e := io.ReadAll(f)
			f.Close()
			if c.want != nil || e != nil || string(text) != "root/bundle/file" {
				t.Errorf("%.100s: reads %q %v, wants %v", c.path, text, e, c.want)
			}
			continue
		}
		if c.want == nil || !errors.Is(err, c.want) {
			t.Errorf("%.100s: %v, wants %v", c.path, err, c.want)
		}
	}
}

func TestFolder(t *testing.T) {
	t.Parallel()
	base := tree(t)
	inside := Roots{base + "/root"}
	folder, err := inside.Folder(base+"/root/current", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	f, err := folder.Open("file")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, name := range []string{"", ".", "..", "../bundle/file", "linkInside", "fifo", "sock", "file/", "none", "file\x00"} {
		if f, err := folder.Open(name); err == nil {
			f.Close()
			t.Errorf("%q opens", name)
		}
	}
	if f, err := inside.Folder(base+"/root/bundle/file", nil); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("a file as a folder: %v %v", f, err)
	}
}

// A tenant reads what its own rights let it read, folders on the way included.
func TestReader(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("gives files to other users: needs root")
	}
	const alice, bob, group = 54321, 54322, 54399
	base := tree(t)
	set := func(name string, uid, gid int, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.Lchown(filepath.Join(base, name), uid, gid), os.Chmod(filepath.Join(base, name), mode)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name         string
		folder, file os.FileMode // of root/bundle and of the file in it, both alice's and the group's
		reader       Reader
		want         bool
	}{
		{"owner", 0o700, 0o400, Reader{UID: alice}, true},
		{"owner without a right", 0o700, 0o044, Reader{UID: alice, GIDs: []uint32{group}}, false},
		{"owner without a right to the folder", 0o677, 0o444, Reader{UID: alice}, false},
		{"member", 0o710, 0o040, Reader{UID: bob, GIDs: []uint32{7, group}}, true},
		{"member without a right", 0o755, 0o404, Reader{UID: bob, GIDs: []uint32{group}}, false},
		{"member without a right to the folder", 0o705, 0o444, Reader{UID: bob, GIDs: []uint32{group}}, false},
		{"other", 0o701, 0o004, Reader{UID: bob}, true},
		{"other without a right", 0o755, 0o640, Reader{UID: bob}, false},
		{"other without a right to the folder", 0o754, 0o444, Reader{UID: bob}, false},
		{"root", 0o000, 0o000, Reader{UID: 0}, true},
	} {
		set("root/bundle", alice, group, c.folder)
		set("root/bundle/file", alice, group, c.file)
		f, err := Roots{base + "/root"}.File(base+"/root/newest/file", &c.reader, os.O_RDONLY, false)
		if err == nil {
			f.Close()
		}
		if (err == nil) != c.want || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", c.name, err)
		}
		folder, err := Roots{base + "/root"}.Folder(base+"/root/bundle", &c.reader)
		if err == nil {
			if f, err = folder.Open("file"); err == nil {
				f.Close()
			}
			folder.Close()
		}
		if (err == nil) != c.want || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%s, by its folder: %v", c.name, err)
		}
	}
	// user::rw-, user:bob:---, group::r--, mask::r--, other::r--
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 0, 0, 50, 212, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255}
	set("root/bundle", alice, group, 0o755)
	set("root/bundle/file", alice, group, 0o644)
	if err := unix.Setxattr(base+"/root/bundle/file", "system.posix_acl_access", acl, 0); err != nil {
		t.Logf("no access control lists here: %v", err)
		return
	}
	for uid, want := range map[uint32]bool{alice: true, bob: false} {
		f, err := Roots{base + "/root"}.File(base+"/root/bundle/file", &Reader{UID: uid}, os.O_RDONLY, false)
		if err == nil {
			f.Close()
		}
		if (err == nil) != want {
			t.Errorf("uid %d beside a list: %v", uid, err)
		}
	}
}

// While names change as fast as they can, what is read lies beneath the root or
// nothing is.
func TestRaces(t *testing.T) {
	t.Parallel()
	base := tree(t)
	if err := os.WriteFile(base+"/file", []byte("secret"), 0o644); err != nil { // where root/up/file would be
		t.Fatal(err)
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			// bundle is the folder, then a link out, then gone, then the folder in another place.
			_ = os.Rename(base+"/root/bundle", base+"/root/d/bundle")
			_ = os.Symlink("..", base+"/root/bundle")
			_ = os.Remove(base + "/root/bundle")
			_ = os.Rename(base+"/root/d/bundle", base+"/root/bundle")
			_ = os.Rename(base+"/root/bundle/file", base+"/root/bundle/kept")
			_ = os.Symlink("../../file", base+"/root/bundle/file")
			_ = os.Rename(base+"/root/bundle/kept", base+"/root/bundle/file")
		}
	}()
	read := 0
	for range 3000 {
		f, err := Roots{base + "/root"}.File(base+"/root/bundle/file", nil, os.O_RDONLY, false)
		if err != nil {
			continue
		}
		text, err := io.ReadAll(f)
		f.Close()
		if err != nil || !bytes.Equal(text, []byte("root/bundle/file")) {
			t.Fatalf("read %q %v", text, err)
		}
		read++
	}
	close(stop)
	<-done
	t.Logf("%d of 3000 opened", read)
}

// A path that is let through names what lies beneath its root.
func FuzzFind(f *testing.F) {
	for _, path := range []string{"/srv/a/b", "/srv/../etc", "/srvx", "//srv//./a/", "/srv/a\x00b", "srv", "/home/a"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		allowed := Roots{"/srv", "/home/", "/srv/deep"}
		root, names, err := allowed.find(path)
		if err != nil {
			if !errors.Is(err, ErrRefused) {
				t.Errorf("%q: %v", path, err)
			}
			return
		}
		full := filepath.Join(append([]string{root}, names...)...)
		if full != filepath.Clean(path) || full != root && !strings.HasPrefix(full, root+"/") {
			t.Errorf("%q is %q in %q", path, names, root)
		}
		for _, name := range names {
			if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				t.Errorf("%q has the name %q", path, name)
			}
		}
	})
}
