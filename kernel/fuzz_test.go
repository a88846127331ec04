package kernel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/secexec/secexec/compressed"
)

func TestSpoolIsFileSystem(t *testing.T) {
	t.Parallel()
	s, err := newSpool()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	names := []string{"boot/vmlinuz-1", "lib/modules/1/kernel/a/a.ko", "lib/modules/1/kernel/b.ko", "lib/modules/1/modules.order"}
	for _, name := range names {
		if err := s.add(name, int64(len(name)), strings.NewReader(name+"and more")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.index(); err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(s, names...); err != nil {
		t.Error(err)
	}
	if b, err := fs.ReadFile(s, names[1]); err != nil || string(b) != names[1] {
		t.Errorf("%s holds %q, %v", names[1], b, err)
	}
	if err := s.add("boot/big", maxFile+1, strings.NewReader("")); !errors.Is(err, ErrPackage) {
		t.Errorf("a file over the limit: %v", err)
	}
	if err := s.add("boot/short", 5, strings.NewReader("1234")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file cut short: %v", err)
	}
	s.entries = maxEntries
	if err := s.count(); !errors.Is(err, ErrPackage) {
		t.Errorf("an entry too many: %v", err)
	}
}

// fuzzPackage: whatever a package is, what was taken from it lies where
// kernels are and can be listed.
func fuzzPackage(t *testing.T, b []byte, read func(context.Context, io.Reader, *spool) error) {
	if len(b) > 1<<20 {
		return
	}
	s, err := newSpool()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if read(t.Context(), bytes.NewReader(b), s) != nil || s.index() != nil {
		return
	}
	for name := range s.files {
		if !fs.ValidPath(name) || !strings.HasPrefix(name, "boot/") && !strings.HasPrefix(name, "lib/modules/") {
			t.Errorf("%q was kept", name)
		}
		if _, err := fs.Stat(s, name); err != nil {
			t.Error(err)
		}
	}
	_, _ = findImages(s)
	if _, err := findModules(s, ""); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// small is a package's content that a fuzzer gets through quickly.
var small = []file{{name: "boot/config-6.1", content: []byte("CONFIG_S390=y\n")}, {name: "lib/modules/6.1/build", link: "/x"}}

func FuzzDeb(f *testing.F) {
	for _, suffix := range []string{"", ".gz", ".xz", ".zst"} {
		f.Add(deb(f, "s390x", suffix, small...))
	}
	f.Add(deb(f, "all", "", file{name: "boot/a"}, file{name: "boot/b", link: "=boot/a"}))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzPackage(t, b, readDeb) })
}

func FuzzRPM(f *testing.F) {
	for _, format := range []compressed.Format{compressed.None, compressed.Gzip, compressed.XZ, compressed.Zstd} {
		f.Add(rpm(f, "s390x", format, false, small...))
	}
	f.Fuzz(func(t *testing.T, b []byte) { fuzzPackage(t, b, readRPM) })
}

// FuzzRPMHeader: what parses re-encodes to the same bytes.
func FuzzRPMHeader(f *testing.F) {
	f.Add(rpmHeaderOf(rpmTag{rpmArch, rpmString, "s390x"}, rpmTag{rpmDigestAlgo, rpmInt32, "\x00\x00\x00\x08"}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readRPMHeader(bytes.NewReader(b))
		if err != nil {
			return
		}
		if out := h.append(nil); !bytes.HasPrefix(b, out) {
			t.Fatalf("%x was read and %x written", b, out)
		}
		for _, e := range h.entries {
			_, _ = h.text(e.tag), h.number(e.tag)
		}
	})
}

// FuzzImage: a release is a plain name, a configuration one of s390x.
func FuzzImage(f *testing.F) {
	f.Add(uint64(0x10500), []byte("6.1.0-s390x (builder)\x00"))
	f.Add(uint64(0), append([]byte(configStart), pack(f, compressed.Gzip, config(withGuest))...))
	f.Add(uint64(0x10500), append(pack(f, compressed.Gzip, append([]byte(configStart), pack(f, compressed.Gzip, config(withGuest))...)), configEnd...))
	f.Fuzz(func(t *testing.T, at uint64, tail []byte) {
		if len(tail) > 64<<10 {
			return
		}
		b := image("1")[:0x10500]
		for i := range 8 {
			b[versionAt+i] = byte(at >> (56 - 8*i))
		}
		b = append(b, tail...)
		release, err := imageRelease(bytes.NewReader(b), int64(len(b)))
		if err != nil || release != "" && !plainRelease(release) {
			t.Errorf("release %q, %v", release, err)
		}
		if c := embeddedConfig(bytes.NewReader(b)); c != nil && !isConfig(c) {
			t.Errorf("configuration %q", c)
		}
	})
}
