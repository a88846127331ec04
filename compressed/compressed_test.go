package compressed

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

var formats = []Format{Gzip, Bzip2, XZ, LZMA, Zstd}

// bzipped is "hello, kernel\n"; Go has no writer of bzip2.
const bzipped = "BZh91AY&SY" + "\x2b\x4f\xee\x3d\x00\x00\x03\x51\x80\x00\x10\x40\x04\x02\x4d\x90\x00\x20\x00\x31\x00\x30\x20\x06\xd4\x6d\x02\x35\x0c\x74\x4f\x8b\xb9\x22\x9c\x28\x48\x15\xa7\xf7\x1e\x80"

func encode(t testing.TB, f Format, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch f {
	case Gzip:
		w = gzip.NewWriter(&out)
	case XZ:
		w, err = xz.WriterConfig{DictCap: 1 << 20, CheckSum: xz.CRC32}.NewWriter(&out)
	case LZMA:
		w, err = lzma.WriterConfig{DictCap: 1 << 20, EOSMarker: true}.NewWriter(&out)
	case Zstd:
		w, err = zstd.NewWriter(&out)
	default:
		t.Fatalf("no encoder of %s", f)
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

func TestDecode(t *testing.T) {
	t.Parallel()
	want := []byte(strings.Repeat("module ", 1000))
	limit := int64(len(want))
	for _, f := range []Format{Gzip, XZ, LZMA, Zstd} {
		b := encode(t, f, want)
		if got := Detect(b); got != f {
			t.Errorf("%s was taken for %q", f, got)
		}
		if got, err := Decode(b, f, limit); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: Decode gave %d bytes, %v", f, len(got), err)
		}
		if _, err := Decode(b, f, limit-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: one byte over the limit gave %v", f, err)
		}
		for _, n := range []int{0, 1, 5, len(b) - 1} {
			if _, err := Decode(b[:n], f, limit); err == nil {
				t.Errorf("%s: %d of %d bytes were taken", f, n, len(b))
			}
		}
	}
	if got, err := Decode([]byte(bzipped), Bzip2, 14); err != nil || string(got) != "hello, kernel\n" {
		t.Errorf("bzip2: Decode gave %q, %v", got, err)
	}
	if Detect([]byte(bzipped)) != Bzip2 || Detect([]byte("\x7fELF\x02\x02")) != None || Detect(nil) != None {
		t.Error("Detect is wrong")
	}
	if got, err := Decode(want, None, limit); err != nil || !bytes.Equal(got, want) {
		t.Errorf("none: %d bytes, %v", len(got), err)
	}
	if _, err := Decode(want, "lzo", limit); err == nil {
		t.Error("an unknown format was taken")
	}
}

func TestBySuffix(t *testing.T) {
	t.Parallel()
	for suffix, want := range map[string]Format{"": None, ".gz": Gzip, ".xz": XZ, ".zst": Zstd, ".bz2": Bzip2, ".lzma": LZMA} {
		if f, ok := BySuffix(suffix); !ok || f != want {
			t.Errorf("%q: %q, %v", suffix, f, ok)
		}
	}
	if _, ok := BySuffix(".lz4"); ok {
		t.Error(".lz4 is known")
	}
}

// A file of several blocks and streams, with each kind of check, as the xz
// program makes them.
func TestXZ(t *testing.T) {
	t.Parallel()
	first, second := []byte(strings.Repeat("first ", 1000)), []byte("second")
	for name, check := range map[string]byte{"CRC32": xz.CRC32, "CRC64": xz.CRC64, "SHA-256": xz.SHA256, "none": 0} {
		stream := func(content []byte) []byte {
			var out bytes.Buffer
			w, err := xz.WriterConfig{DictCap: 1 << 16, BlockSize: 1000, CheckSum: check, NoCheckSum: check == 0}.NewWriter(&out)
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
		one := stream(first)
		b := append(append(bytes.Clone(one), 0, 0, 0, 0), stream(second)...)
		got, err := Decode(b, XZ, 1<<20)
		if err != nil || string(got) != string(first)+"second" {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if _, err := Decode(append(bytes.Clone(one), 0), XZ, 1<<20); err == nil {
			t.Errorf("%s: a byte of padding was taken", name)
		}
		if _, err := Decode(append(bytes.Clone(one), "junk"...), XZ, 1<<20); err == nil {
			t.Errorf("%s: junk at the end was taken", name)
		}
		// Whatever byte changes, the content does not, unless it has no check
		// sum. (The LZMA2 decoder lets some of a chunk's header pass.)
		for at := range one {
			bad := bytes.Clone(one)
			bad[at] ^= 1
			if got, err := Decode(bad, XZ, 1<<20); err == nil && (len(got) != len(first) || check != 0 && !bytes.Equal(got, first)) {
				t.Errorf("%s: byte %d changed the content", name, at)
			}
		}
	}
}

func TestXZDictionary(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		property byte
		want     error
	}{
		{18, nil},         // 2 MiB
		{30, nil},         // 128 MiB
		{31, ErrTooLarge}, // 192 MiB
		{40, ErrTooLarge}, // 4 GiB
		{41, ErrTooLarge}, // nothing
	} {
		b := encode(t, XZ, []byte("x"))
		if b[12+2] != 0x21 {
			t.Fatalf("byte 14 of the xz file is %#x, not LZMA2", b[14])
		}
		header := b[12 : 12+(int(b[12])+1)*4]
		header[4] = tt.property
		binary.LittleEndian.PutUint32(header[len(header)-4:], crc32.ChecksumIEEE(header[:len(header)-4]))
		if _, err := Decode(b, XZ, 1<<20); !errors.Is(err, tt.want) {
			t.Errorf("dictionary %d: Decode gave %v, want %v", tt.property, err, tt.want)
		}
		// The same in a stream behind a good one.
		if _, err := Decode(append(encode(t, XZ, []byte("y")), b...), XZ, 1<<20); !errors.Is(err, tt.want) {
			t.Errorf("dictionary %d of a second stream: Decode gave %v, want %v", tt.property, err, tt.want)
		}
	}
}

// FuzzDecode holds decompression to its bounds.
func FuzzDecode(f *testing.F) {
	for i, format := range formats {
		if format == Bzip2 {
			f.Add(byte(i), []byte(bzipped))
			continue
		}
		f.Add(byte(i), encode(f, format, []byte("seed")))
	}
	f.Fuzz(func(t *testing.T, kind byte, b []byte) {
		const limit = 1 << 20
		out, err := Decode(b, formats[int(kind)%len(formats)], limit)
		if err == nil && len(out) > limit {
			t.Errorf("%d bytes came out of %d", len(out), len(b))
		}
	})
}
