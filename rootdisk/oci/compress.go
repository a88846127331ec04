package oci

import (
	"bufio"
	"io"

	"github.com/secexec/secexec/compressed"
)

// detect is compressed.Detect for what may hold a tar: LZMA has no magic that
// the name of a tar's first file could not be.
func detect(head []byte) compressed.Format {
	if f := compressed.Detect(head); f != compressed.LZMA {
		return f
	}
	return compressed.None
}

// Decompress opens a stream that is plain or compressed with gzip, bzip2, xz or
// zstd, told by its first bytes. Its memory is bounded.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<20)
	head, _ := b.Peek(6)
	return compressed.NewReader(b, detect(head))
}
