package sealed

import (
	"bytes"
	"encoding/binary"

	"github.com/secexec/secexec/secret"
)

// codec walks over a value's fields in the order of the encoding: it appends
// them to b, or takes them off the front of b. So each format is written down
// once, for both directions, and what decodes encodes to the same bytes.
//
// All numbers are big-endian. After the first error a decoding codec gives
// zeros, so that callers look once, at the end.
type codec struct {
	b        []byte
	decoding bool
	err      error
}

func (c *codec) fail(format string, args ...any) {
	if c.err == nil {
		c.err = invalid(format, args...)
	}
}

// take gives the next n bytes.
func (c *codec) take(n int) []byte {
	if c.err == nil && len(c.b) < n {
		c.fail("ends within a field")
	}
	if c.err != nil {
		return make([]byte, n)
	}
	field := c.b[:n]
	c.b = c.b[n:]
	return field
}

// fixed is a field of as many bytes as b has.
func (c *codec) fixed(b []byte) {
	if c.decoding {
		copy(b, c.take(len(b)))
	} else {
		c.b = append(c.b, b...)
	}
}

// secret is a field of n secret bytes; what is decoded shares no memory with
// the encoding.
func (c *codec) secret(s *secret.Bytes, n int) {
	if c.decoding {
		*s = bytes.Clone(c.take(n))
	} else {
		c.b = append(c.b, *s...)
	}
}

// number is a big-endian number of size bytes.
func (c *codec) number(v uint64, size int) uint64 {
	var b [8]byte
	if c.decoding {
		copy(b[8-size:], c.take(size))
		return binary.BigEndian.Uint64(b[:])
	}
	binary.BigEndian.PutUint64(b[:], v)
	c.b = append(c.b, b[8-size:]...)
	return v
}

func (c *codec) u8(v *uint8)   { *v = uint8(c.number(uint64(*v), 1)) }
func (c *codec) u16(v *uint16) { *v = uint16(c.number(uint64(*v), 2)) }
func (c *codec) u32(v *uint32) { *v = uint32(c.number(uint64(*v), 4)) }
func (c *codec) u64(v *uint64) { *v = c.number(*v, 8) }

// flag is one byte, 0 or 1.
func (c *codec) flag(v *bool) {
	var n uint8
	if *v {
		n = 1
	}
	c.u8(&n)
	if n > 1 {
		c.fail("flag is %d, wants 0 or 1", n)
	}
	*v = n == 1
}

// text is a u16 length and that many bytes, at most limit.
func (c *codec) text(s *string, limit int) {
	n := uint16(len(*s))
	c.u16(&n)
	if int(n) > limit {
		c.fail("text of %d bytes, at most %d", n, limit)
	}
	switch {
	case !c.decoding:
		c.b = append(c.b, *s...)
	case c.err == nil:
		*s = string(c.take(int(n)))
	}
}

// path is a text of at most MaxPath bytes.
func (c *codec) path(s *string) { c.text(s, MaxPath) }

// list is a u16 count, at most limit, and that many items.
func list[T any](c *codec, s *[]T, limit int, item func(*codec, *T)) {
	n := uint16(len(*s))
	c.u16(&n)
	if int(n) > limit {
		c.fail("list of %d items, at most %d", n, limit)
	}
	for i := 0; i < int(n) && c.err == nil; i++ {
		if c.decoding {
			var zero T
			*s = append(*s, zero)
		}
		item(c, &(*s)[i])
	}
}

// maybe is a flag, and the value where the flag is 1.
func maybe[T any](c *codec, v **T, value func(*codec, *T)) {
	there := *v != nil
	c.flag(&there)
	if there && c.decoding {
		*v = new(T)
	}
	if there {
		value(c, *v)
	}
}
