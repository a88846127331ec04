package network

import (
	"encoding/binary"
	"net/netip"
)

// A description is
//
//	magic         8   "SxNetwk1"
//	length        u16 bytes of the whole description
//	mtu           u16
//	addresses     u8 count, then each: address, u8 bits
//	gateways      u8 count, then each: address, 6 bytes
//	routes        u8 count, then each: address, u8 bits, address or u8 0
//	name servers  u8 count, then each: address
//	ndots         u8
//	search        u8 count, then each: u8 length, text
//
// where an address is u8 4 or 16 and that many bytes.
const (
	magic = "SxNetwk1"

	// HeaderSize is how much tells a description's length.
	HeaderSize = len(magic) + 2
	// MaxSize is more than any description has.
	MaxSize = 4096
)

// Marshal returns the description's one encoding.
func (d *Description) Marshal() ([]byte, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	return d.encode(), nil
}

func (d *Description) encode() []byte {
	be := binary.BigEndian
	b := append(make([]byte, 0, MaxSize), magic...)
	b = be.AppendUint16(b, 0)
	b = be.AppendUint16(b, d.MTU)
	b = append(b, uint8(len(d.Addresses)))
	for _, p := range d.Addresses {
		b = append(appendAddress(b, p.Addr()), uint8(p.Bits()))
	}
	b = append(b, uint8(len(d.Gateways)))
	for _, g := range d.Gateways {
		b = append(appendAddress(b, g.Address), g.MAC[:]...)
	}
	b = append(b, uint8(len(d.Routes)))
	for _, r := range d.Routes {
		b = appendAddress(append(appendAddress(b, r.To.Addr()), uint8(r.To.Bits())), r.Via)
	}
	b = append(b, uint8(len(d.NameServers)))
	for _, a := range d.NameServers {
		b = appendAddress(b, a)
	}
	b = append(b, d.Ndots, uint8(len(d.Search)))
	for _, s := range d.Search {
		b = append(append(b, uint8(len(s))), s...)
	}
	be.PutUint16(b[len(magic):], uint16(len(b)))
	return b
}

// appendAddress appends an address; an invalid one has no bytes.
func appendAddress(b []byte, a netip.Addr) []byte {
	raw := a.AsSlice()
	return append(append(b, uint8(len(raw))), raw...)
}

// Size reads how long the description is that a header of HeaderSize bytes
// begins, so that a reader of a stream need not believe in its end.
func Size(header []byte) (int, error) {
	if len(header) < HeaderSize || string(header[:len(magic)]) != magic {
		return 0, invalid("no magic %q", magic)
	}
	size := int(binary.BigEndian.Uint16(header[len(magic):]))
	if size <= HeaderSize || size > MaxSize {
		return 0, invalid("%d bytes, wants %d to %d", size, HeaderSize+1, MaxSize)
	}
	return size, nil
}

// Unmarshal parses a description: one that it accepts passes Check and encodes
// to the same bytes. The result shares no memory with b.
func Unmarshal(b []byte) (*Description, error) {
	size, err := Size(b)
	if err != nil {
		return nil, err
	}
	if size != len(b) {
		return nil, invalid("length field says %d, description has %d bytes", size, len(b))
	}
	r := reader{b: b[HeaderSize:]}
	d := &Description{MTU: binary.BigEndian.Uint16(r.take(2))}
	for range r.count(MaxAddresses) {
		a := r.address()
		d.Addresses = append(d.Addresses, netip.PrefixFrom(a, int(r.u8())))
	}
	for range r.count(2) {
		d.Gateways = append(d.Gateways, Gateway{r.address(), [6]byte(r.take(6))})
	}
	for range r.count(MaxRoutes) {
		a := r.address()
		to := netip.PrefixFrom(a, int(r.u8()))
		d.Routes = append(d.Routes, Route{to, r.maybeAddress()})
	}
	for range r.count(MaxNameServers) {
		d.NameServers = append(d.NameServers, r.address())
	}
	d.Ndots = r.u8()
	for range r.count(MaxSearch) {
		d.Search = append(d.Search, string(r.take(int(r.u8()))))
	}
	if r.err == nil && len(r.b) != 0 {
		r.err = invalid("%d bytes after the last field", len(r.b))
	}
	if r.err == nil {
		r.err = d.Check()
	}
	if r.err != nil {
		return nil, r.err
	}
	return d, nil
}

// reader takes fields off the front of b. After the first error it gives zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err == nil && len(r.b) < n {
		r.err = invalid("it ends within a field")
	}
	if r.err != nil {
		return make([]byte, n)
	}
	field := r.b[:n]
	r.b = r.b[n:]
	return field
}

func (r *reader) u8() uint8 { return r.take(1)[0] }

// count is how many items of a list follow.
func (r *reader) count(limit int) int {
	n := int(r.u8())
	if n > limit && r.err == nil {
		r.err = invalid("list of %d items, at most %d", n, limit)
	}
	if r.err != nil {
		return 0
	}
	return n
}

func (r *reader) address() netip.Addr {
	a := r.maybeAddress()
	if !a.IsValid() && r.err == nil {
		r.err = invalid("no address")
	}
	return a
}

func (r *reader) maybeAddress() netip.Addr {
	size := r.u8()
	switch {
	case size == 0:
		return netip.Addr{}
	case size != 4 && size != 16:
		if r.err == nil {
			r.err = invalid("address of %d bytes, wants 4 or 16", size)
		}
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(r.take(int(size)))
	return a
}
