package ultravisor

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/secexec/secexec/seimage"
)

// componentReader reads a component of a verified image in plain text. It holds
// one chunk, whatever the component's size.
type componentReader struct {
	u    *Unpacked
	c    seimage.IPIBComponent
	want [sha256.Size]byte
	left uint64 // bytes to give

	offset uint64 // of the next chunk
	stored hash.Hash
	buf    []byte // backs rest
	rest   []byte // plain text, not given yet
}

// component reads the first size bytes of a component.
func (u *Unpacked) component(i int, size uint64) io.Reader {
	c := u.Image.IPIB.Components[i]
	return &componentReader{
		u: u, c: c, want: u.o.stored[i], left: min(size, c.Size),
		stored: sha256.New(), buf: make([]byte, min(chunkSize, c.Size)),
	}
}

// Read implements io.Reader. It ends with io.EOF only when all pages of the
// component, those behind the last byte given too, were what was verified.
func (r *componentReader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 || r.left == 0 {
		if r.offset == r.c.Size {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, r.rest[:min(uint64(len(r.rest)), r.left)])
	r.rest = r.rest[n:]
	r.left -= uint64(n)
	return n, nil
}

// next loads a chunk; the last one only if the pages are what was verified.
func (r *componentReader) next() error {
	chunk := r.buf[:min(uint64(len(r.buf)), r.c.Size-r.offset)]
	if err := readRange(r.u.r, chunk, r.c.Addr+r.offset); err != nil {
		return fmt.Errorf("read component: %w", err)
	}
	r.stored.Write(chunk)
	if r.offset+uint64(len(chunk)) == r.c.Size && [sha256.Size]byte(r.stored.Sum(nil)) != r.want {
		return fmt.Errorf("%w: the component at 0x%x", ErrChanged, r.c.Addr)
	}
	r.u.o.decrypt(chunk, r.c.TweakPrefix, r.offset)
	r.offset += uint64(len(chunk))
	r.rest = chunk
	return nil
}
