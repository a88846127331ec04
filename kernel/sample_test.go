package kernel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/secexec/secexec/compressed"
	"github.com/secexec/secexec/cpio"
)

// image is a raw image that tells its release, unless it is "", with payload
// behind its head.
func image(release string, payload ...byte) []byte {
	const textAt = 0x10500
	b := make([]byte, textAt+0x100)
	copy(b[magicAt:], magicText)
	if release != "" {
		binary.BigEndian.PutUint64(b[versionAt:], textAt)
		copy(b[textAt:], release+" (builder@host) #1 SMP")
	}
	return append(b, payload...)
}

func config(guest string) []byte {
	return []byte("# Linux/s390 kernel\nCONFIG_64BIT=y\nCONFIG_S390=y\n" + guest + "\n")
}

const (
	withGuest    = guestOption + "=y"
	withoutGuest = "# " + guestOption + " is not set"
)

// file is a member of a package, or a file of a folder.
type file struct {
	name    string
	content []byte
	link    string // symbolic, or hard where it begins with "="
}

// files is a kernel's, with prefix before lib/modules, such as "usr/".
func files(release, guest, prefix string) []file {
	tree := prefix + "lib/modules/" + release
	return []file{
		{name: "boot/vmlinuz-" + release, content: image(release)},
		{name: "boot/config-" + release, content: config(guest)},
		{name: tree + "/modules.builtin", content: []byte("kernel/drivers/char/virtio_console.ko\n")},
		{name: tree + "/kernel/fs/ext4.ko", content: []byte("ext4 of " + release)},
		{name: tree + "/build", link: "/usr/src/linux"},
		{name: "usr/share/doc/copyright", content: []byte("text")},
	}
}

func lay(t testing.TB, list ...file) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range list {
		path := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if f.link != "" {
			err = os.Symlink(f.link, path)
		} else {
			err = os.WriteFile(path, f.content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func save(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pack(t testing.TB, f compressed.Format, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch f {
	case compressed.None:
		return b
	case compressed.Gzip:
		w = gzip.NewWriter(&out)
	case compressed.XZ:
		w, err = xz.WriterConfig{DictCap: 1 << 16, CheckSum: xz.CRC32}.NewWriter(&out)
	case compressed.Zstd:
		w, err = zstd.NewWriter(&out)
	default:
		t.Fatalf("no encoder of %s", f)
	}
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func tarOf(t testing.TB, list ...file) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range list {
		h := &tar.Header{Name: "./" + f.name, Mode: 0o644, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		if f.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
			if f.link[0] == '=' {
				h.Typeflag, h.Linkname = tar.TypeLink, "./"+f.link[1:]
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func ar(members ...file) []byte {
	b := []byte(arMagic)
	for _, m := range members {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 1, 0, 0, "100644", len(m.content))
		b = append(b, m.content...)
		if len(m.content)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

// deb is a Debian package, compressed as a suffix says.
func deb(t testing.TB, arch, suffix string, list ...file) []byte {
	t.Helper()
	format, _ := compressed.BySuffix(suffix)
	control := tarOf(t, file{name: "control", content: []byte("Package: linux-image\nArchitecture: " + arch + "\n")})
	return ar(
		file{name: "debian-binary", content: []byte("2.0\n")},
		file{name: "control.tar" + suffix, content: pack(t, format, control)},
		file{name: "data.tar" + suffix, content: pack(t, format, tarOf(t, list...))},
	)
}

type rpmTag struct {
	tag, kind uint32
	text      string
}

func rpmHeaderOf(tags ...rpmTag) *rpmHeader {
	h := &rpmHeader{}
	for _, t := range tags {
		h.entries = append(h.entries, rpmEntry{t.tag, t.kind, uint32(len(h.store)), 1})
		h.store = append(h.store, t.text...)
		if t.kind != rpmInt32 {
			h.store = append(h.store, 0)
		}
	}
	return h
}

// rpm is an RPM package. With spoil the digest in its header is wrong.
func rpm(t testing.TB, arch string, format compressed.Format, spoil bool, list ...file) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	for i, f := range list {
		h := cpio.Header{Name: "./" + f.name, Mode: cpio.Regular | 0o644, Inode: uint32(i + 1), Links: 1}
		if f.link != "" {
			h.Mode, f.content = cpio.Symlink|0o777, []byte(f.link)
		}
		if err := w.Add(h, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	payload := pack(t, format, archive.Bytes())
	digest := sha256.Sum256(payload)
	if spoil {
		digest[0]++
	}
	b := append([]byte(rpmMagic+"\x03\x00"), make([]byte, rpmLeadSize-6)...)
	b = rpmHeaderOf(rpmTag{1000, rpmString, "sig"}).append(b)
	b = append(b, make([]byte, -len(b)&7)...)
	b = rpmHeaderOf(
		rpmTag{rpmDigestAlgo, rpmInt32, "\x00\x00\x00\x08"}, rpmTag{rpmArch, rpmString, arch}, rpmTag{rpmSource, rpmString, "kernel.src.rpm"},
		rpmTag{rpmPayloadFormat, rpmString, "cpio"}, rpmTag{rpmCompressor, rpmString, string(format)},
		rpmTag{rpmDigest, rpmStringArray, hex.EncodeToString(digest[:])},
	).append(b)
	return append(b, payload...)
}

// append appends the header's form in the file.
func (h *rpmHeader) append(b []byte) []byte {
	b = append(b, rpmHeaderMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(h.entries)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(h.store)))
	for _, e := range h.entries {
		for _, v := range []uint32{e.tag, e.kind, e.at, e.count} {
			b = binary.BigEndian.AppendUint32(b, v)
		}
	}
	return append(b, h.store...)
}
