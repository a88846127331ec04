package cpio

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Reader reads an archive, member by member.
type Reader struct {
	r    *bufio.Reader
	n    int64 // bytes read
	left int64 // of the member in hand
}

// NewReader returns a reader of the archive in r.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReader(r)} }

// Next goes to the next member, over what is left of the one before. It gives
// io.EOF at the archive's end; what follows that in r is not looked at.
func (r *Reader) Next() (Header, error) {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return Header{}, err
	}
	if err := r.pad(); err != nil {
		return Header{}, err
	}
	h, err := r.header()
	if err != nil {
		return Header{}, err
	}
	if h.Name == trailer {
		if h.Size != 0 {
			return Header{}, fmt.Errorf("%w: its end has content", ErrFormat)
		}
		return Header{}, io.EOF
	}
	r.left = int64(h.Size)
	return h, nil
}

// Read reads the content of the member in hand.
func (r *Reader) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.r.Read(b[:min(int64(len(b)), r.left)])
	r.n, r.left = r.n+int64(n), r.left-int64(n)
	if err == io.EOF && r.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (r *Reader) header() (Header, error) {
	start := r.n
	var raw [headerSize]byte
	if err := r.full(raw[:]); err != nil {
		return Header{}, err
	}
	if string(raw[:len(magic)]) != magic {
		return Header{}, fmt.Errorf("%w: no header at byte %d", ErrFormat, start)
	}
	var f [fields]uint32
	for i := range f {
		v, ok := number(raw[len(magic)+8*i:][:8])
		if !ok {
			return Header{}, fmt.Errorf("%w: the header at byte %d has no number in field %d", ErrFormat, start, i+1)
		}
		f[i] = v
	}
	if f[11] < 2 || f[11] > maxName {
		return Header{}, fmt.Errorf("%w: a name of %d bytes at byte %d", ErrFormat, f[11], start)
	}
	if f[12] != 0 {
		return Header{}, fmt.Errorf("%w: a check sum at byte %d", ErrFormat, start)
	}
	name := make([]byte, f[11])
	if err := r.full(name); err != nil {
		return Header{}, err
	}
	text, ok := strings.CutSuffix(string(name), "\x00")
	if !ok || strings.Contains(text, "\x00") {
		return Header{}, fmt.Errorf("%w: the name at byte %d does not end where it should", ErrFormat, start)
	}
	return Header{
		Inode: f[0], Mode: f[1], UID: f[2], GID: f[3], Links: f[4], MTime: f[5], Size: f[6],
		Major: f[7], Minor: f[8], NodeMajor: f[9], NodeMinor: f[10], Name: text,
	}, r.pad()
}

// number reads 8 hexadecimal digits of either case: GNU cpio and the kernel
// write large ones, rpm small ones.
func number(b []byte) (v uint32, ok bool) {
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		v = v<<4 | uint32(c)
	}
	return v, true
}

func (r *Reader) full(b []byte) error {
	n, err := io.ReadFull(r.r, b)
	r.n += int64(n)
	if err == io.EOF && n < len(b) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (r *Reader) pad() error {
	var b [3]byte
	p := b[:padding(r.n)]
	if err := r.full(p); err != nil {
		return err
	}
	if strings.Trim(string(p), "\x00") != "" {
		return fmt.Errorf("%w: padding before byte %d is not zero", ErrFormat, r.n)
	}
	return nil
}
