package seimage

import (
	"errors"
	"fmt"
	"io"
)

// Image is an opened image: its plain-text records, parsed. Component pages
// are read by who needs them.
type Image struct {
	Header     *Header
	HeaderAddr uint64
	IPIB       *IPIB
	IPIBAddr   uint64
	Legacy     bool // without metadata, as the older C tool wrote it

	r    io.ReaderAt
	size int64
}

// Errors of Open.
var (
	ErrNotImage  = errors.New("not an SE boot image")
	ErrTruncated = errors.New("SE boot image is truncated")
)

// Where the older C tool (s390-tools up to 2.35) has the IPIB, and how far
// tools look for its header.
const (
	legacyIPIBAddr     = 0x13000
	legacyHeaderBefore = 0x15000
)

// Open parses an image's metadata, SE header and IPIB. Nothing in them is
// authenticated yet.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	img := &Image{r: r, size: size}
	meta, err := img.metadata()
	if err != nil {
		return nil, err
	}
	img.HeaderAddr, img.IPIBAddr = meta.HeaderAddr, meta.IPIBAddr
	raw, err := img.read(meta.HeaderAddr, MaxHeaderSize)
	if err != nil {
		return nil, err
	}
	if img.Header, err = ParseHeader(raw); err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	if raw, err = img.read(meta.IPIBAddr, MaxIPIBSize); err != nil {
		return nil, err
	}
	if img.IPIB, err = ParseIPIB(raw); err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	for _, c := range img.IPIB.Components {
		if c.Addr+c.Size > uint64(size) {
			return nil, fmt.Errorf("open image: %w: a component ends at 0x%x, the file at 0x%x", ErrTruncated, c.Addr+c.Size, size)
		}
	}
	return img, nil
}

// metadata finds header and IPIB.
func (img *Image) metadata() (Metadata, error) {
	raw, err := img.read(MetadataAddr, metadataSize)
	if err != nil {
		return Metadata{}, err
	}
	if m, ok := parseMetadata(raw); ok {
		return m, nil
	}
	for addr := uint64(0); addr < legacyHeaderBefore; addr += PageSize {
		if raw, err = img.read(addr, len(HeaderMagic)); err != nil {
			return Metadata{}, err
		}
		if string(raw) == HeaderMagic {
			img.Legacy = true
			return Metadata{HeaderAddr: addr, IPIBAddr: legacyIPIBAddr}, nil
		}
	}
	return Metadata{}, fmt.Errorf("open image: %w: neither metadata at 0x%x nor an SE header", ErrNotImage, MetadataAddr)
}

// read returns up to n bytes at an address, at least one.
func (img *Image) read(addr uint64, n int) ([]byte, error) {
	if addr >= uint64(img.size) {
		return nil, fmt.Errorf("open image: %w: it ends before 0x%x", ErrNotImage, addr)
	}
	b := make([]byte, min(uint64(n), uint64(img.size)-addr))
	if _, err := img.r.ReadAt(b, int64(addr)); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read image: %w", err)
	}
	return b, nil
}
