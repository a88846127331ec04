package seimage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/secexec/secexec/seimage/bootloader"
)

// Image is an opened image: its plain-text records, parsed. Component pages
// are read by who needs them.
type Image struct {
	Header     *Header
	HeaderAddr uint64
	IPIB       *IPIB
	IPIBAddr   uint64
	ArgsAddr   uint64 // of stage3a's arguments; 0: not found
	Legacy     bool   // without metadata, as the older C tool wrote it

	r    io.ReaderAt
	size int64
}

// Errors of Open.
var (
	ErrNotImage  = errors.New("not an SE boot image")
	ErrTruncated = errors.New("SE boot image is truncated")
	// ErrMetadata says that tools and the boot loader would not see the same
	// image: somebody wrote into it.
	ErrMetadata = errors.New("SE boot image's metadata and its boot loader disagree")
)

// Where the older C tool (s390-tools up to 2.35) has the IPIB, and how far
// tools look for its header.
const (
	legacyIPIBAddr     = 0x13000
	legacyHeaderBefore = 0x15000
)

// maxStage3a bounds the search for stage3a's arguments, in bytes; those known
// have less than 16 KiB.
const maxStage3a = 64 << 10

// OpenHeader finds and parses an image's SE header alone, by the metadata or,
// without any, at the start of one of the first 21 pages: so an extracted header
// is found too. IPIB stays nil. Nothing is authenticated yet.
func OpenHeader(r io.ReaderAt, size int64) (*Image, error) {
	img := &Image{r: r, size: size}
	meta, err := img.metadata()
	if err != nil {
		return nil, err
	}
	img.HeaderAddr, img.IPIBAddr = meta.HeaderAddr, meta.IPIBAddr
	raw, err := img.read(img.HeaderAddr, MaxHeaderSize)
	if err != nil {
		return nil, err
	}
	if img.Header, err = ParseHeader(raw); err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	return img, nil
}

// Open parses an image's metadata, SE header and IPIB. Nothing in them is
// authenticated yet.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	img, err := OpenHeader(r, size)
	if err != nil {
		return nil, err
	}
	if err := img.followLoader(); err != nil {
		return nil, err
	}
	if img.IPIBAddr >= uint64(size) {
		return nil, fmt.Errorf("open image: %w: its IPIB is at 0x%x, the file ends at 0x%x", ErrTruncated, img.IPIBAddr, size)
	}
	raw, err := img.read(img.IPIBAddr, MaxIPIBSize)
	if err != nil {
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
	if raw, err := img.read(MetadataAddr, metadataSize); err == nil {
		m, ok, err := parseMetadata(raw)
		if ok || err != nil {
			return m, err
		}
	} else if !errors.Is(err, ErrNotImage) {
		return Metadata{}, err
	}
	for addr := uint64(0); addr < legacyHeaderBefore; addr += PageSize {
		raw, err := img.read(addr, len(HeaderMagic))
		if errors.Is(err, ErrNotImage) {
			break
		}
		if err != nil {
			return Metadata{}, err
		}
		if string(raw) == HeaderMagic {
			img.Legacy = true
			return Metadata{HeaderAddr: addr, IPIBAddr: legacyIPIBAddr}, nil
		}
	}
	return Metadata{}, fmt.Errorf("open image: %w: neither metadata at 0x%x nor an SE header", ErrNotImage, MetadataAddr)
}

// followLoader takes the IPIB's address from where the boot loader takes it:
// stage3a's arguments, its last bytes. They lie before the header, on 4 bytes,
// and name it. A loader without them is nobody's that we know; then the
// metadata counts.
func (img *Image) followLoader() error {
	if img.HeaderAddr <= EntryAddr {
		return nil
	}
	raw, err := img.read(EntryAddr, int(min(img.HeaderAddr-EntryAddr, maxStage3a)))
	if err != nil {
		return err
	}
	be := binary.BigEndian
	for at := (len(raw) - bootloader.Stage3aArgsSize) &^ 3; at >= 0; at -= 4 {
		addr := EntryAddr + uint64(at)
		if addr+be.Uint64(raw[at:]) != img.HeaderAddr || be.Uint64(raw[at+8:]) != uint64(img.Header.Size()) {
			continue
		}
		ipib := addr + be.Uint64(raw[at+16:])
		if !img.Legacy && ipib != img.IPIBAddr {
			return fmt.Errorf("open image: %w: IPIB at 0x%x and 0x%x", ErrMetadata, img.IPIBAddr, ipib)
		}
		img.ArgsAddr, img.IPIBAddr = addr, ipib
		return nil
	}
	return nil
}

// read returns up to n bytes at an address, at least one.
func (img *Image) read(addr uint64, n int) ([]byte, error) {
	if addr >= uint64(img.size) {
		return nil, fmt.Errorf("open image: %w: it ends before 0x%x", ErrNotImage, addr)
	}
	b := make([]byte, min(uint64(n), uint64(img.size)-addr))
	got, err := img.r.ReadAt(b, int64(addr))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read image: %w", err)
	}
	return b[:got], nil
}
