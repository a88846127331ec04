package rootdisk

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/secexec/secexec/rootdisk/diskimage"
	"github.com/secexec/secexec/rootdisk/luks2"
	"github.com/secexec/secexec/rootdisk/oci"
	"github.com/secexec/secexec/rootdisk/oci/ocitest"
)

const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

var when = time.Unix(1_700_000_000, 0)

// theTree is one tree as a tar's entries: each kind of file, each attribute.
func theTree() []tar.Header {
	return []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: when},
		{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: when},
		{Name: "./bin/ping", Typeflag: tar.TypeReg, Mode: 0o755, Size: 3, ModTime: when, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capability, "LIBARCHIVE.xattr.user.b%3da": "aGVsbG8", "SCHILY.acl.access": "user::rwx,user:joe:r--:1000,group::r-x,mask::r-x,other::---"}},
		{Name: "./bin/su", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 3, ModTime: when},
		{Name: "./etc/", Typeflag: tar.TypeDir, Mode: 0o2750, Uid: 7, Gid: 100000, ModTime: when},
		{Name: "./etc/again", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 1000, Gid: 42, Size: 5000, ModTime: when},
		{Name: "./etc/first", Typeflag: tar.TypeLink, Linkname: "./etc/again"},
		{Name: "./etc/" + strings.Repeat("long", 60), Typeflag: tar.TypeReg, Mode: 0o444, Size: 0, ModTime: when},
		{Name: "./dev/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: when},
		{Name: "./dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3, ModTime: when},
		{Name: "./dev/null2", Typeflag: tar.TypeLink, Linkname: "./dev/null"},
		{Name: "./dev/sda", Typeflag: tar.TypeBlock, Mode: 0o660, Gid: 6, Devmajor: 8, Devminor: 300, ModTime: when},
		{Name: "./run/", Typeflag: tar.TypeDir, Mode: 0o1777, ModTime: when},
		{Name: "./run/fifo", Typeflag: tar.TypeFifo, Mode: 0o600, Uid: 5, ModTime: when},
		{Name: "./sbin", Typeflag: tar.TypeSymlink, Linkname: "bin", ModTime: when},
	}
}

func tarBytes(t testing.TB, headers []tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.PAXRecords != nil {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, strings.Repeat("x", int(h.Size))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

func write(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// layersOf spreads the tree over layers that also put things there which later
// ones take away: a whiteout, an opaque folder, a folder that becomes a file, a
// file that becomes a folder, a path through a symbolic link.
func layersOf(tree []tar.Header) [][]tar.Header {
	reg := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: 9}
	}
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o700} }
	return [][]tar.Header{
		{
			reg("gone"), dir("gone.d"), reg("gone.d/a"), reg("etc/old"), dir("bin/su"), reg("bin/su/x"), reg("run"), reg("dev/null"), reg("etc/again"),
			{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/bin"}, {Name: "dev/sda", Typeflag: tar.TypeLink, Linkname: "gone"},
		},
		append([]tar.Header{reg(".wh.gone"), reg(".wh.gone.d"), reg("etc/.wh..wh..opq"), reg(".wh.never"), reg(".wh..wh.plnk")}, tree...),
		{
			{Name: "link/ping2", Typeflag: tar.TypeReg, Size: 9, Mode: 0o600}, reg("bin/.wh.ping2"), // this layer's own stays
		},
		{reg("link/.wh.ping2"), reg(".wh.link")},
	}
}

// The same tree through every kind of source: the same file system.
func TestSameTreeThroughAllSources(t *testing.T) {
	t.Parallel()
	need(t, "mke2fs")
	headers := theTree()
	plain := tarBytes(t, headers)
	var layers [][]byte
	for i, l := range layersOf(headers) {
		b := tarBytes(t, l)
		switch i {
		case 0:
			b = gzipped(t, b)
		case 1:
			b = zstded(t, b)
		}
		layers = append(layers, b)
	}
	img := ocitest.Image{Architecture: "s390x", Layers: layers, Config: oci.Config{Cmd: []string{"/init"}, User: "7"}}
	layout := filepath.Join(t.TempDir(), "layout")
	ocitest.WriteLayout(t, layout, img)
	server := ocitest.Registry(t, "team/app", img)
	sources := map[string]string{
		"tar":            write(t, "root.tar", plain),
		"tar.gz":         write(t, "root.tar.gz", gzipped(t, plain)),
		"tar.zst":        write(t, "root.tar.zst", zstded(t, plain)),
		"layout":         "oci:" + layout,
		"oci archive":    "oci-archive:" + write(t, "oci.tar", ocitest.TarOf(t, layout)),
		"oci archive gz": "oci-archive:" + write(t, "oci.tgz", gzipped(t, ocitest.TarOf(t, layout))),
		"docker archive": "docker-archive:" + write(t, "docker.tar", ocitest.DockerArchive(t, img, "app:1")) + ":app:1",
		"registry":       "docker://" + server + "/team/app:latest",
	}
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := filepath.Join(t.TempDir(), "root.img")
			v, err := Create(t.Context(), disk, Options{Source: source, Size: 8 << 20, Passphrase: testPass, SkipTLS: true})
			if err != nil {
				t.Fatal(err)
			}
			if v.Entries != len(headers) {
				t.Errorf("%d entries, want %d", v.Entries, len(headers))
			}
			if strings.Contains(source, ":") && (v.Config == nil || v.Config.User != "7" || v.Digest == "") {
				t.Errorf("configuration %+v", v.Config)
			}
			f, err := os.Open(disk)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			ext4 := filepath.Join(t.TempDir(), "plain")
			if _, err := Open(t.Context(), f, ext4, testPass, nil); err != nil {
				t.Fatal(err)
			}
			checkTree(t, ext4, headers)
		})
	}
}

// checkTree checks each attribute of each file, as debugfs reads them.
func checkTree(t *testing.T, ext4 string, headers []tar.Header) {
	t.Helper()
	links := map[string]int{"etc/again": 2, "etc/first": 2, "dev/null": 2, "dev/null2": 2}
	byName := make(map[string]tar.Header)
	for _, h := range headers {
		name := strings.Trim(strings.TrimPrefix(h.Name, "./"), "/")
		if h.Typeflag == tar.TypeLink {
			h = byName[strings.TrimPrefix(h.Linkname, "./")]
		}
		byName[name] = h
		kind := map[byte]string{tar.TypeReg: "regular", tar.TypeDir: "directory", tar.TypeChar: "character special", tar.TypeBlock: "block special",
			tar.TypeFifo: "FIFO", tar.TypeSymlink: "symlink"}[h.Typeflag]
		mode := fmt.Sprintf("Mode:  %04o ", h.Mode)
		if h.Mode > 0o777 {
			mode = fmt.Sprintf("Mode:  0%o ", h.Mode)
		}
		if h.Typeflag == tar.TypeSymlink {
			mode = "Mode:  0777 "
		}
		got := debugfs(t, ext4, "stat /"+name)
		wants := []string{"Type: " + kind + " ", mode, fmt.Sprintf("User: %5d ", h.Uid), fmt.Sprintf("Group: %5d ", h.Gid), fmt.Sprintf("mtime: 0x%08x", when.Unix())}
		if n := links[name]; n > 0 {
			wants = append(wants, fmt.Sprintf("Links: %d ", n))
		}
		switch h.Typeflag {
		case tar.TypeReg:
			wants = append(wants, fmt.Sprintf("Size: %d", h.Size))
		case tar.TypeSymlink:
			wants = append(wants, fmt.Sprintf("Fast link dest: %q", h.Linkname))
		case tar.TypeChar, tar.TypeBlock:
			wants = append(wants, fmt.Sprintf("Device major/minor number: %02d:%02d ", h.Devmajor, h.Devminor))
		}
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", name, want, got)
			}
		}
	}
	for name, want := range map[string]string{"security.capability": capability, "user.b=a": "hello", aclAccess: ""} {
		out := filepath.Join(t.TempDir(), "value")
		debugfs(t, ext4, "ea_get -f "+out+" /bin/ping "+name)
		got, err := os.ReadFile(out)
		if err != nil || want != "" && string(got) != want || len(got) == 0 {
			t.Errorf("%s: %v %q", name, err, got)
		}
	}
	out := filepath.Join(t.TempDir(), "file")
	debugfs(t, ext4, "dump /etc/first "+out)
	if got, err := os.ReadFile(out); err != nil || string(got) != strings.Repeat("x", 5000) {
		t.Errorf("content: %v, %d bytes", err, len(got))
	}
}

func TestHostileImages(t *testing.T) {
	t.Parallel()
	reg := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: 1}
	}
	symlink := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	cases := map[string]struct {
		layer   []tar.Header
		want    error
		entries []string // of the top, when it is good
	}{
		"out":                       {[]tar.Header{reg("../x")}, ErrSource, nil},
		"whiteout of the parent":    {[]tar.Header{reg("a/.wh...")}, ErrSource, nil},
		"whiteout of itself":        {[]tar.Header{reg("a/.wh..")}, ErrSource, nil},
		"whiteout without a name":   {[]tar.Header{reg(".wh.")}, ErrSource, nil},
		"below a whiteout":          {[]tar.Header{reg(".wh.a/b")}, ErrSource, nil},
		"circle of links":           {[]tar.Header{symlink("a", "b"), symlink("b", "a"), reg("a/x")}, ErrSource, nil},
		"hard link to nothing":      {[]tar.Header{{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}}, ErrSource, nil},
		"link clamps at the root":   {[]tar.Header{{Name: "etc", Typeflag: tar.TypeDir, Mode: 0o755}, symlink("up", "../../../etc"), reg("up/x")}, nil, []string{"etc", "up"}},
		"whiteout through the root": {[]tar.Header{symlink("up", "/.."), reg("up/.wh.base")}, nil, []string{"up"}},
		"too large":                 {[]tar.Header{{Name: "a", Typeflag: tar.TypeReg, Size: 2 << 20}}, ErrSource, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			layout := filepath.Join(dir, "layout")
			ocitest.WriteLayout(t, layout, ocitest.Image{Architecture: "s390x", Layers: [][]byte{tarBytes(t, []tar.Header{reg("base")}), tarBytes(t, c.layer)}})
			tr, err := newTree(filepath.Join(dir, "tree"), mebi)
			if err != nil {
				t.Fatal(err)
			}
			defer tr.root.Close()
			o := Options{Source: "oci:" + layout}
			if err := o.image(t.Context(), dir, &Volume{}, tr); !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			if got := slices.Sorted(maps.Keys(tr.top.kids)); c.entries != nil && c.entries[len(c.entries)-1] == "up" && !slices.Equal(got, c.entries) && !slices.Equal(got, append([]string{"base"}, c.entries...)) {
				t.Errorf("got %q", got)
			}
			if left, _ := os.ReadDir(dir); len(left) != 2 {
				t.Errorf("left %v", left)
			}
		})
	}
}

// A file system in an image is taken to the byte, padded to the size asked for.
func TestCreateFromDiskImage(t *testing.T) {
	t.Parallel()
	fs := bytes.Repeat([]byte("data"), 1<<18)
	copy(fs[1080:], "\x53\xef")
	disk := make([]byte, 4<<20)
	copy(disk[446:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0}) // 2048 sectors at 2048
	disk[510], disk[511] = 0x55, 0xaa
	copy(disk[1<<20:], fs)
	for name, source := range map[string]string{"partition": write(t, "p", fs), "disk": write(t, "d", disk)} {
		path := filepath.Join(t.TempDir(), "root.img")
		v, err := Create(t.Context(), path, Options{Source: source, Size: 3 << 20, Passphrase: testPass, Key: testKey})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		out := filepath.Join(t.TempDir(), "plain")
		if _, err := Open(t.Context(), f, out, nil, testKey); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(out)
		if err != nil || v.FSType != "ext4" || sha256.Sum256(got) != sha256.Sum256(append(bytes.Clone(fs), make([]byte, 2<<20)...)) {
			t.Errorf("%s: %v %+v", name, err, v)
		}
		if _, err := Open(t.Context(), f, out+"2", secretOf("wrong"), nil); !errors.Is(err, luks2.ErrKey) {
			t.Errorf("wrong pass phrase: %v", err)
		}
	}
	_, err := Create(t.Context(), filepath.Join(t.TempDir(), "x"), Options{Source: write(t, "d", disk), Partition: 2, Passphrase: testPass})
	if !errors.Is(err, diskimage.ErrPartition) {
		t.Errorf("partition 2: %v", err)
	}
}

func secretOf(s string) []byte { return []byte(s) }

func FuzzTarPath(f *testing.F) {
	for _, s := range []string{"./a/b/", "../x", "/etc", "a//b", "a/.wh..wh..opq", ".wh.a", "\n"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, name, target string) {
		dir := t.TempDir()
		tr, err := newTree(filepath.Join(dir, "tree"), mebi)
		if err != nil {
			t.Fatal(err)
		}
		defer tr.root.Close()
		tr.layered = true
		skip := func(string) {}
		_ = tr.addTarEntry(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: target}, nil, skip)
		tr.layer = 1
		for _, n := range []string{name, "l/" + name, name + "/.wh.x"} {
			_ = tr.addTarEntry(&tar.Header{Name: n, Typeflag: tar.TypeReg, Size: 1}, strings.NewReader("x"), skip)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("escaped: %v", left)
		}
		entries := 0
		_ = tr.each(func(string, *node) error { entries++; return nil })
		if entries != tr.entries+1 {
			t.Errorf("%d names, counted %d", entries, tr.entries+1)
		}
	})
}
