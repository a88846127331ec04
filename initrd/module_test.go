package initrd

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/secexec/secexec/compressed"
)

// fakeELF is the head of an s390x ELF file, with something to tell it by.
func fakeELF(kind byte, mark string) []byte {
	b := make([]byte, 64, 64+len(mark))
	copy(b, "\x7fELF\x02\x02\x01")
	b[17], b[19] = kind, 22
	return append(b, mark...)
}

func compress(t testing.TB, suffix string, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch suffix {
	case "":
		return content
	case ".gz":
		w = gzip.NewWriter(&out)
	case ".xz":
		w, err = xz.WriterConfig{DictCap: 1 << 20, CheckSum: xz.CRC32}.NewWriter(&out)
	case ".zst":
		w, err = zstd.NewWriter(&out)
	}
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestLoad(t *testing.T) {
	t.Parallel()
	want := fakeELF(elfRel, strings.Repeat("module ", 1000))
	for _, suffix := range []string{"", ".gz", ".xz", ".zst"} {
		packed := compress(t, suffix, want)
		load := func(b []byte) ([]byte, error) {
			fsys := fstest.MapFS{"modules.dep": {Data: []byte("kernel/m.ko" + suffix + ":\n")}, "kernel/m.ko" + suffix: {Data: b}}
			tree, err := OpenTree(fsys, "test")
			if err != nil {
				t.Fatal(err)
			}
			return tree.Load(Module{File: "m", Path: "kernel/m.ko" + suffix})
		}
		got, err := load(packed)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: Load gave %d bytes, %v", suffix, len(got), err)
		}
		if _, err := load(nil); err == nil {
			t.Errorf("%q: an empty file was taken", suffix)
		}
		if suffix != "" {
			if _, err := load(packed[:len(packed)-5]); err == nil {
				t.Errorf("%q: a truncated file was taken", suffix)
			}
		}
		if _, err := load(compress(t, suffix, []byte(strings.Repeat("text", 40)))); !errors.Is(err, ErrNotS390x) {
			t.Errorf("%q: text gave %v, want %v", suffix, err, ErrNotS390x)
		}
		intel := bytes.Clone(want)
		intel[5], intel[16], intel[17], intel[18], intel[19] = 1, 1, 0, 62, 0
		if _, err := load(compress(t, suffix, intel)); !errors.Is(err, ErrNotS390x) {
			t.Errorf("%q: an amd64 module gave %v, want %v", suffix, err, ErrNotS390x)
		}
		if _, err := load(compress(t, suffix, make([]byte, MaxModule+1))); !errors.Is(err, compressed.ErrTooLarge) {
			t.Errorf("%q: a bomb gave %v, want %v", suffix, err, compressed.ErrTooLarge)
		}
	}
}

func TestLoadMissing(t *testing.T) {
	t.Parallel()
	_, err := fakeTree(t).Load(Module{File: "ext4", Path: "kernel/fs/ext4/ext4.ko.xz"})
	if err == nil || !strings.Contains(err.Error(), "module ext4") {
		t.Errorf("Load of a file that is not there gave %v", err)
	}
}
