package cpio

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// Writer writes an archive.
type Writer struct {
	w io.Writer
	n int64 // bytes written
}

// NewWriter returns a writer of an archive to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Add writes a member; h.Size is taken from content. A member's folder must
// have been added before.
func (w *Writer) Add(h Header, content []byte) error {
	if int64(len(content)) > math.MaxUint32 {
		return fmt.Errorf("%d bytes do not fit a cpio member", len(content))
	}
	if h.Name == "" || len(h.Name) >= maxName || strings.Contains(h.Name, "\x00") || h.Name == trailer {
		return fmt.Errorf("%q can't be a cpio member's name", h.Name)
	}
	h.Size = uint32(len(content))
	return w.member(h, content)
}

// Close ends the archive, and not the writer below.
func (w *Writer) Close() error {
	if err := w.member(Header{Name: trailer, Links: 1}, nil); err != nil {
		return err
	}
	return w.write(make([]byte, -w.n&(archiveUnit-1)))
}

func (w *Writer) member(h Header, content []byte) error {
	if err := w.write(h.append(make([]byte, 0, headerSize+len(h.Name)+1))); err != nil {
		return err
	}
	if err := w.pad(); err != nil {
		return err
	}
	if err := w.write(content); err != nil {
		return err
	}
	return w.pad()
}

func (w *Writer) write(b []byte) error {
	n, err := w.w.Write(b)
	w.n += int64(n)
	return err
}

func (w *Writer) pad() error { return w.write(make([]byte, padding(w.n))) }
