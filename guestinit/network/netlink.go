package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Numbers of rtnetlink (linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h,
// if.h, if_arp.h, neighbour.h). They are the same on every machine; the order of bytes is
// the machine's own.
const (
	nlmsgError   = 2
	nlmsgDone    = 3
	rtmNewLink   = 16
	rtmGetLink   = 18
	rtmNewAddr   = 20
	rtmDelAddr   = 21
	rtmNewRoute  = 24
	rtmNewNeigh  = 28
	flagRequest  = 0x1
	flagAck      = 0x4
	flagReplace  = 0x100
	flagDump     = 0x300
	flagCreate   = 0x400
	iflaAddress  = 1
	iflaName     = 3
	iflaMTU      = 4
	iflaLinkInfo = 18
	infoKind     = 1
	ifaAddress   = 1
	ifaLocal     = 2
	ifaFlags     = 8
	ifaNoDAD     = 0x02
	ndaDst       = 1
	ndaAddress   = 2
	rtaDst       = 1
	rtaOIF       = 4
	rtaGateway   = 5
	linkUp       = 0x1
	linkLoopback = 0x8
	linkLowerUp  = 0x10000
	linkEthernet = 1 // ARPHRD_ETHER
	afInet       = 2
	afInet6      = 10
	tableMain    = 254
	scopeLink    = 253
	protoBoot    = 3 // RTPROT_BOOT
	protoDHCP    = 16
	typeUnicast  = 1
	nextOnLink   = 4 // RTNH_F_ONLINK
	nudPermanent = 0x80

	netlinkHeader = 16
	linkHeader    = 16 // struct ifinfomsg
)

// ErrNetlink is wrapped by every error about what the kernel said.
var ErrNetlink = errors.New("bad netlink message")

// link is what the kernel says of an interface.
type link struct {
	index    uint32
	hardware uint16 // ARPHRD_*
	flags    uint32
	name     string
	mac      []byte
	software bool // the kernel made it itself: a bridge, a tunnel, a tap
}

// request builds one rtnetlink message.
type request struct {
	order binary.ByteOrder
	b     []byte
}

func newRequest(order binary.ByteOrder, kind, flags uint16, seq uint32) *request {
	r := &request{order: order, b: make([]byte, netlinkHeader, 128)}
	order.PutUint16(r.b[4:], kind)
	order.PutUint16(r.b[6:], flags|flagRequest)
	order.PutUint32(r.b[8:], seq)
	return r
}

func (r *request) u8(v ...uint8) *request { r.b = append(r.b, v...); return r }

func (r *request) u16(v uint16) *request {
	var raw [2]byte
	r.order.PutUint16(raw[:], v)
	return r.u8(raw[:]...)
}

func (r *request) u32(v uint32) *request {
	var raw [4]byte
	r.order.PutUint32(raw[:], v)
	return r.u8(raw[:]...)
}

func (r *request) attribute(kind uint16, data []byte) *request {
	r.u16(uint16(4 + len(data))).u16(kind).u8(data...)
	return r.u8(make([]byte, -len(data)&3)...)
}

func (r *request) attribute32(kind uint16, v uint32) *request {
	return r.u16(8).u16(kind).u32(v)
}

// bytes ends the message.
func (r *request) bytes() []byte {
	r.order.PutUint32(r.b[0:], uint32(len(r.b)))
	return r.b
}

func listLinks(order binary.ByteOrder, seq uint32) []byte {
	return newRequest(order, rtmGetLink, flagDump, seq).u8(make([]byte, linkHeader)...).bytes()
}

// raiseLink puts an interface up, with an MTU where that is not 0.
func raiseLink(order binary.ByteOrder, seq, index uint32, mtu uint16) []byte {
	r := newRequest(order, rtmNewLink, flagAck, seq)
	r.u8(0, 0).u16(0).u32(index).u32(linkUp).u32(linkUp)
	if mtu != 0 {
		r.attribute32(iflaMTU, uint32(mtu))
	}
	return r.bytes()
}

// changeAddress adds an address, or takes it away again. IPv6 ones are usable
// at once: who could tell of a duplicate is the host, which is not believed.
func changeAddress(order binary.ByteOrder, seq, index uint32, p netip.Prefix, add bool) []byte {
	kind, flags := uint16(rtmDelAddr), uint16(flagAck)
	if add {
		kind, flags = rtmNewAddr, flagAck|flagCreate|flagReplace
	}
	r := newRequest(order, kind, flags, seq)
	raw := p.Addr().AsSlice()
	r.u8(family(p.Addr()), uint8(p.Bits()), 0, 0).u32(index)
	r.attribute(ifaLocal, raw).attribute(ifaAddress, raw)
	if add && p.Addr().Is6() {
		r.attribute32(ifaFlags, ifaNoDAD)
	}
	return r.bytes()
}

// addRoute leads to a network, with 0 bits to all of its family, by a gateway or,
// without one, directly. A gateway is reached on this interface, whatever the
// prefix of our own address.
func addRoute(order binary.ByteOrder, seq, index uint32, to netip.Prefix, gateway netip.Addr, protocol uint8) []byte {
	r := newRequest(order, rtmNewRoute, flagAck|flagCreate|flagReplace, seq)
	scope, flags := uint8(scopeLink), uint32(0)
	if gateway.IsValid() {
		scope, flags = 0, nextOnLink
	}
	r.u8(family(to.Addr()), uint8(to.Bits()), 0, 0, tableMain, protocol, scope, typeUnicast).u32(flags)
	if to.Bits() > 0 {
		r.attribute(rtaDst, to.Addr().AsSlice())
	}
	if gateway.IsValid() {
		r.attribute(rtaGateway, gateway.AsSlice())
	}
	return r.attribute32(rtaOIF, index).bytes()
}

// all is what a default route leads to.
func all(gateway netip.Addr) netip.Prefix {
	if gateway.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// setNeighbour says for good what hardware address a machine has.
func setNeighbour(order binary.ByteOrder, seq, index uint32, a netip.Addr, mac [macSize]byte) []byte {
	r := newRequest(order, rtmNewNeigh, flagAck|flagCreate|flagReplace, seq)
	r.u8(family(a), 0).u16(0).u32(index).u16(nudPermanent).u8(0, typeUnicast)
	return r.attribute(ndaDst, a.AsSlice()).attribute(ndaAddress, mac[:]).bytes()
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return afInet
	}
	return afInet6
}

// reply is what one packet of answers says.
type reply struct {
	links []link
	done  bool  // the request is answered
	errno int32 // 0, or why it is refused
}

// parseReply reads a packet of answers to the request of this number. Messages
// of other requests are passed over.
func parseReply(order binary.ByteOrder, b []byte, seq uint32) (r reply, err error) {
	for len(b) > 0 && !r.done {
		if len(b) < netlinkHeader {
			return reply{}, fmt.Errorf("%w: %d bytes are left", ErrNetlink, len(b))
		}
		size := order.Uint32(b)
		if size < netlinkHeader || uint64(size) > uint64(len(b)) {
			return reply{}, fmt.Errorf("%w: of %d bytes in %d", ErrNetlink, size, len(b))
		}
		kind, mine, body := order.Uint16(b[4:]), order.Uint32(b[8:]) == seq, b[netlinkHeader:size]
		b = b[min(int(size+3)&^3, len(b)):]
		switch {
		case !mine:
		case kind == nlmsgDone || kind == nlmsgError:
			if len(body) < 4 {
				return reply{}, fmt.Errorf("%w: verdict of %d bytes", ErrNetlink, len(body))
			}
			r.done, r.errno = true, -int32(order.Uint32(body))
		case kind == rtmNewLink:
			l, err := parseLink(order, body)
			if err != nil {
				return reply{}, err
			}
			r.links = append(r.links, l)
		}
	}
	return r, nil
}

func parseLink(order binary.ByteOrder, b []byte) (l link, err error) {
	if len(b) < linkHeader {
		return l, fmt.Errorf("%w: interface of %d bytes", ErrNetlink, len(b))
	}
	l = link{hardware: order.Uint16(b[2:]), index: order.Uint32(b[4:]), flags: order.Uint32(b[8:])}
	err = attributes(order, b[linkHeader:], func(kind uint16, data []byte) error {
		switch kind {
		case iflaAddress:
			l.mac = append([]byte(nil), data...)
		case iflaName:
			for len(data) > 0 && data[len(data)-1] == 0 {
				data = data[:len(data)-1]
			}
			l.name = string(data)
		case iflaLinkInfo:
			return attributes(order, data, func(kind uint16, _ []byte) error {
				l.software = l.software || kind == infoKind
				return nil
			})
		}
		return nil
	})
	return l, err
}

// attributes calls f for each attribute.
func attributes(order binary.ByteOrder, b []byte, f func(kind uint16, data []byte) error) error {
	for len(b) >= 4 {
		size, kind := int(order.Uint16(b)), order.Uint16(b[2:])&0x3fff // NLA_TYPE_MASK
		if size < 4 || size > len(b) {
			return fmt.Errorf("%w: attribute of %d bytes in %d", ErrNetlink, size, len(b))
		}
		if err := f(kind, b[4:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}
