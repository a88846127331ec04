package initrd

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// MaxModule bounds a kernel module, in bytes, compressed and not. The largest
// of Debian's s390x kernel has 3 MB.
const MaxModule = 32 << 20

// maxDictionary bounds the memory that a compressed module may ask of its
// reader, in bytes. xz -9 uses 64 MiB.
const maxDictionary = 64 << 20

// ErrTooLarge is wrapped by errors about a program or module over its limit.
var ErrTooLarge = errors.New("too large")

// decompress returns a module's content, by its file's suffix after ".ko".
func decompress(b []byte, suffix string) ([]byte, error) {
	var r io.Reader
	var err error
	switch suffix {
	case "":
		return b, nil
	case ".gz":
		r, err = gzip.NewReader(bytes.NewReader(b))
	case ".xz":
		if err := checkXZ(b); err != nil {
			return nil, err
		}
		r, err = xz.NewReader(bytes.NewReader(b))
	case ".zst":
		var d *zstd.Decoder
		d, err = zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(maxDictionary), zstd.WithDecoderMaxWindow(maxDictionary))
		if err == nil {
			defer d.Close()
			r = d
		}
	default:
		return nil, fmt.Errorf("unknown compression %q", suffix)
	}
	if err != nil {
		return nil, err
	}
	return readAtMost(r, MaxModule)
}

// checkXZ refuses an xz file whose first block asks for a large dictionary
// before the reader allocates it. The layout is xz-file-format-1.1.0 section
// 3.1: after the stream header of 12 bytes the block header has its size, its
// flags, two optional sizes and the filters; LZMA2 is filter 0x21 with one
// byte of properties, the dictionary's size.
func checkXZ(b []byte) error {
	const streamHeader = 12
	if len(b) < streamHeader+4 {
		return io.ErrUnexpectedEOF
	}
	b = b[streamHeader:]
	if b[0] == 0 { // the index: a file without a block
		return nil
	}
	size := (int(b[0]) + 1) * 4
	if len(b) < size {
		return io.ErrUnexpectedEOF
	}
	flags, fields := b[1], b[2:size]
	for _, bit := range []byte{0x40, 0x80} { // compressed and uncompressed size, variable length
		if flags&bit != 0 {
			end := slices.IndexFunc(fields, func(c byte) bool { return c < 0x80 })
			fields = fields[end+1:]
		}
	}
	if flags&3 != 0 || len(fields) < 3 || fields[0] != 0x21 || fields[1] != 1 {
		return errors.New("xz with another filter than LZMA2")
	}
	// 2 or 3 times a power of two; 40 stands for 4 GiB.
	if p := int(fields[2]); p > 40 || (2|p&1)<<(p/2+11) > maxDictionary {
		return fmt.Errorf("xz with a dictionary over %d MiB: %w", maxDictionary>>20, ErrTooLarge)
	}
	return nil
}

// readAtMost reads all of r, or fails with ErrTooLarge.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("more than %d MiB: %w", limit>>20, ErrTooLarge)
	}
	return b, nil
}

// Types of ELF files.
const (
	elfRel  = 1 // kernel modules
	elfExec = 2
	elfDyn  = 3
)

// isELF tells a 64-bit big-endian s390 (EM_S390, 22) ELF file of one of the
// types.
func isELF(b []byte, types ...byte) bool {
	return len(b) >= 64 && string(b[:4]) == "\x7fELF" && b[4] == 2 && b[5] == 2 &&
		b[16] == 0 && slices.Contains(types, b[17]) && b[18] == 0 && b[19] == 22
}
