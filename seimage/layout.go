package seimage

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/secexec/secexec/xts"
)

// PageSize is the unit of encryption and of placement, in bytes.
const PageSize = 4096

// Guest absolute addresses of the image's plain-text parts.
const (
	PSWAddr       = 0x0     // short PSW that QEMU's -kernel starts with
	MetadataAddr  = 0xc000  // image metadata, see Metadata
	EntryAddr     = 0x10000 // entry for zipl's loader
	Stage3aAddr   = 0x11000
	MinHeaderAddr = 0x14000 // where older readers begin to search the SE header
)

// Kinds of components, the first 2 bytes of their tweaks. Tweak prefixes must
// grow with the address, so kinds grow in this order.
const (
	KindKernel  = 40
	KindInitrd  = 50
	KindCmdline = 60
	KindStage3b = 70
)

// PageTweak is the tweak of the page at this byte offset within a component:
// its prefix, then the offset, both 64 bits big-endian.
func PageTweak(prefix, offset uint64) (t xts.Tweak) {
	binary.BigEndian.PutUint64(t[:8], prefix)
	binary.BigEndian.PutUint64(t[8:], offset)
	return t
}

// Digests are the three digests over all pages of all components in address
// order, each SHA-512, and their number.
type Digests struct {
	PLD [64]byte // the pages as stored
	ALD [64]byte // each page's address, 64 bits
	TLD [64]byte // each page's tweak, 16 bytes
	NEP uint64
}

// Digester makes Digests page by page.
type Digester struct {
	pages, addrs, tweaks hash.Hash
	n                    uint64
}

// NewDigester starts with no page.
func NewDigester() *Digester {
	return &Digester{pages: sha512.New(), addrs: sha512.New(), tweaks: sha512.New()}
}

// Add adds consecutive pages of a component, as stored: from addr on, the first
// one at this byte offset within the component.
func (d *Digester) Add(stored []byte, addr, prefix, offset uint64) {
	d.addPages(stored)
	d.addPlaces(uint64(len(stored)), addr, prefix, offset)
}

// addPages is the part of Add that takes all the time; addPlaces is the rest.
// One goroutine may call the one while another calls the other.
func (d *Digester) addPages(stored []byte) { d.pages.Write(stored) }

func (d *Digester) addPlaces(size, addr, prefix, offset uint64) {
	var a [8]byte
	for end := offset + size; offset < end; offset += PageSize {
		binary.BigEndian.PutUint64(a[:], addr)
		d.addrs.Write(a[:])
		t := PageTweak(prefix, offset)
		d.tweaks.Write(t[:])
		addr += PageSize
		d.n++
	}
}

// Sum returns the digests of what was added.
func (d *Digester) Sum() Digests {
	return Digests{
		PLD: [64]byte(d.pages.Sum(nil)),
		ALD: [64]byte(d.addrs.Sum(nil)),
		TLD: [64]byte(d.tweaks.Sum(nil)),
		NEP: d.n,
	}
}

// Metadata is the plain-text record by which tools find header and IPIB.
type Metadata struct {
	HeaderAddr, IPIBAddr uint64
}

const (
	metadataMagic   = "SeImgLnx"
	metadataVersion = 1
	metadataSize    = 28
)

func (m Metadata) marshal() []byte {
	be := binary.BigEndian
	b := append(make([]byte, 0, metadataSize), metadataMagic...)
	b = be.AppendUint64(b, m.HeaderAddr)
	b = be.AppendUint32(b, metadataVersion)
	return be.AppendUint64(b, m.IPIBAddr)
}

// parseMetadata also tells whether there is any.
func parseMetadata(b []byte) (m Metadata, ok bool, err error) {
	be := binary.BigEndian
	if len(b) < metadataSize || string(b[:8]) != metadataMagic {
		return m, false, nil
	}
	if v := be.Uint32(b[16:]); v != metadataVersion {
		return m, true, fmt.Errorf("open image: %w: its metadata has version %d, wants %d", ErrNotImage, v, metadataVersion)
	}
	return Metadata{be.Uint64(b[8:]), be.Uint64(b[20:])}, true, nil
}

// roundUp rounds a size up to whole pages.
func roundUp(n uint64) uint64 { return (n + PageSize - 1) &^ (PageSize - 1) }
