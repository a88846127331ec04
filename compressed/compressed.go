// Package compressed opens compressed bytes from outside: kernel modules,
// packages, kernels. It bounds the memory that a file may ask of its reader;
// how much may come out is for the caller to bound, with [ReadAtMost].
package compressed

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz/lzma"
)

// maxDictionary bounds the dictionary or window of a stream, in bytes. xz -9
// uses 64 MiB, zstd -19 8 MiB; zstd --ultra -22 with 128 MiB is the largest
// that any distribution packs with.
const maxDictionary = 128 << 20

// ErrTooLarge is wrapped by errors about data over a limit.
var ErrTooLarge = errors.New("too large")

// Format is a compression.
type Format string

// Formats.
const (
	None  Format = ""
	Gzip  Format = "gzip"
	Bzip2 Format = "bzip2"
	XZ    Format = "xz"
	LZMA  Format = "lzma"
	Zstd  Format = "zstd"
)

// bySuffix has the names that files of a format end with.
var bySuffix = map[string]Format{"": None, ".gz": Gzip, ".bz2": Bzip2, ".xz": XZ, ".lzma": LZMA, ".zst": Zstd}

// BySuffix returns the format for the end of a file's name, such as ".xz"; ""
// stands for none.
func BySuffix(suffix string) (f Format, ok bool) {
	f, ok = bySuffix[suffix]
	return f, ok
}

// magics begin the formats' streams. LZMA has none; its usual properties
// (lc=3 lp=0 pb=2) before a dictionary of whole 64 KiB pass for one.
var magics = []struct {
	format Format
	bytes  string
}{
	{Gzip, "\x1f\x8b\x08"}, {Bzip2, "BZh"}, {XZ, "\xfd7zXZ\x00"}, {Zstd, "\x28\xb5\x2f\xfd"}, {LZMA, "\x5d\x00\x00"},
}

// Detect tells the format of a stream from its first six bytes or more.
func Detect(head []byte) Format {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.bytes)) {
			return m.format
		}
	}
	return None
}

// NewReader decompresses r. Close frees memory and leaves r open.
func NewReader(r io.Reader, f Format) (io.ReadCloser, error) {
	switch f {
	case None:
		return io.NopCloser(r), nil
	case Gzip:
		return gzip.NewReader(r)
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(r)), nil
	case XZ:
		x, err := newXZ(r)
		return io.NopCloser(x), err
	case LZMA:
		x, err := lzma.ReaderConfig{DictCap: maxDictionary}.NewReader(r)
		return io.NopCloser(x), err
	case Zstd:
		b := bufio.NewReaderSize(r, 64<<10)
		if _, err := b.Peek(1); err != nil { // the decoder takes nothing for an empty stream
			return nil, noEOF(err)
		}
		d, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(maxDictionary), zstd.WithDecoderMaxWindow(maxDictionary))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("unknown compression %q", f)
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Decode decompresses b to at most limit bytes; more is ErrTooLarge.
func Decode(b []byte, f Format, limit int64) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(b), f)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return ReadAtMost(r, limit)
}

// ReadAtMost reads all of r, or fails with ErrTooLarge.
func ReadAtMost(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("more than %d MiB: %w", limit>>20, ErrTooLarge)
	}
	return b, nil
}
