package oci

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxWindow bounds the memory of zstd's decoder, whatever the stream asks for.
// xz can't be bounded so; its 4 GiB at most become resident as far as they fill.
const maxWindow = 128 << 20

var magics = []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"}

// compressed tells whether a stream that starts so is compressed.
func compressed(head []byte) bool {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m)) {
			return true
		}
	}
	return false
}

// Decompress opens a stream that is plain or compressed with gzip, bzip2, xz or
// zstd, told by its first bytes.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<20)
	head, _ := b.Peek(6)
	switch {
	case bytes.HasPrefix(head, []byte(magics[0])):
		return gzip.NewReader(b)
	case bytes.HasPrefix(head, []byte(magics[1])):
		return io.NopCloser(bzip2.NewReader(b)), nil
	case bytes.HasPrefix(head, []byte(magics[2])):
		x, err := xz.NewReader(b)
		return io.NopCloser(x), err
	case bytes.HasPrefix(head, []byte(magics[3])):
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<40))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}
