package seimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// IPIB is the IPL parameter information block of a protected guest: header and
// PV block (QEMU: IPLBlockPV).
type IPIB struct {
	Loadparm   [8]byte
	HeaderAddr uint64 // stage3a overwrites it from its own arguments
	HeaderSize uint64
	Components []IPIBComponent // in address order

	// block has the bytes that were parsed, where they say more than the fields
	// above: a block longer than its components, reserved bytes.
	block []byte
}

// IPIBComponent is one encrypted range of guest memory.
type IPIBComponent struct {
	TweakPrefix uint64 // first 8 bytes of the tweak of each of its pages
	Addr        uint64 // multiple of PageSize
	Size        uint64 // bytes, multiple of PageSize
}

// Limits of an IPIB; QEMU checks them too.
const (
	MaxIPIBSize   = PageSize
	MaxComponents = (MaxIPIBSize - ipibFixed) / ipibComponent

	ipibHeader    = 8
	ipibFixed     = ipibHeader + 128
	ipibComponent = 24
	ipibTypePV    = 5
)

// ErrIPIB is wrapped by every error about an IPIB.
var ErrIPIB = errors.New("invalid IPIB")

// Size is the block's size in bytes.
func (p *IPIB) Size() int { return max(len(p.block), ipibFixed+ipibComponent*len(p.Components)) }

// Marshal returns the block's bytes; of a parsed one, the same bytes again.
func (p *IPIB) Marshal() []byte {
	be := binary.BigEndian
	b := make([]byte, p.Size())
	pv := b[ipibHeader:]
	if copy(b, p.block) == 0 {
		be.PutUint32(b, uint32(len(b)))
		b[7] = 1 // version of the block header
		be.PutUint32(pv, uint32(len(pv)))
		pv[4] = ipibTypePV
		pv[103] = 1 // version of the PV block
	}
	copy(pv[8:], p.Loadparm[:])
	be.PutUint32(pv[108:], uint32(len(p.Components)))
	be.PutUint64(pv[112:], p.HeaderAddr)
	be.PutUint64(pv[120:], p.HeaderSize)
	for i, c := range p.Components {
		e := pv[128+ipibComponent*i:]
		be.PutUint64(e, c.TweakPrefix)
		be.PutUint64(e[8:], c.Addr)
		be.PutUint64(e[16:], c.Size)
	}
	return b
}

// ParseIPIB parses the block at the start of b. As QEMU and firmware do, it
// ignores reserved bytes and those after the last component. The older C tool's
// block is a whole page long and its PV block has version 0.
func ParseIPIB(b []byte) (*IPIB, error) {
	be := binary.BigEndian
	if len(b) < ipibFixed {
		return nil, fmt.Errorf("%w: %d bytes, at least %d", ErrIPIB, len(b), ipibFixed)
	}
	size := uint64(be.Uint32(b))
	if size < ipibFixed || size > MaxIPIBSize || size > uint64(len(b)) {
		return nil, fmt.Errorf("%w: its length field says %d bytes", ErrIPIB, size)
	}
	if b[7] != 1 {
		return nil, fmt.Errorf("%w: version %d", ErrIPIB, b[7])
	}
	pv := b[ipibHeader:size]
	if pv[4] != ipibTypePV || pv[103] > 1 {
		return nil, fmt.Errorf("%w: block type %d version %d, wants %d version 0 or 1", ErrIPIB, pv[4], pv[103], ipibTypePV)
	}
	n := uint64(be.Uint32(pv[108:]))
	if n == 0 || n > MaxComponents || 128+n*ipibComponent > uint64(len(pv)) {
		return nil, fmt.Errorf("%w: %d components", ErrIPIB, n)
	}
	if l := uint64(be.Uint32(pv)); l < 128+n*ipibComponent || l > uint64(len(pv)) {
		return nil, fmt.Errorf("%w: PV block's length field says %d bytes", ErrIPIB, l)
	}
	p := &IPIB{HeaderAddr: be.Uint64(pv[112:]), HeaderSize: be.Uint64(pv[120:])}
	copy(p.Loadparm[:], pv[8:])
	for i := range n {
		e := pv[128+ipibComponent*i:]
		p.Components = append(p.Components, IPIBComponent{be.Uint64(e), be.Uint64(e[8:]), be.Uint64(e[16:])})
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	if !bytes.Equal(p.Marshal(), b[:size]) {
		p.block = bytes.Clone(b[:size])
	}
	return p, nil
}

// check applies QEMU's and firmware's rules for components.
func (p *IPIB) check() error {
	var end uint64
	for i, c := range p.Components {
		switch {
		case c.Addr%PageSize != 0 || c.Size%PageSize != 0 || c.Size == 0 || c.Addr+c.Size < c.Addr:
			return fmt.Errorf("%w: component %d at 0x%x of %d bytes is not a range of pages", ErrIPIB, i, c.Addr, c.Size)
		case c.Addr < end:
			return fmt.Errorf("%w: component %d at 0x%x overlaps the one before", ErrIPIB, i, c.Addr)
		case i > 0 && c.TweakPrefix <= p.Components[i-1].TweakPrefix:
			return fmt.Errorf("%w: tweak prefix of component %d does not increase", ErrIPIB, i)
		}
		end = c.Addr + c.Size
	}
	return nil
}
