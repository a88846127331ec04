package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/secexec/secexec/proto/network"
	"github.com/secexec/secexec/sealed"
)

// Message types (RFC 2132, 9.6).
const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpAck      = 5
	dhcpNak      = 6
)

// Options that are sent or read (RFC 2132).
const (
	optPad       = 0
	optMask      = 1
	optRouter    = 3
	optDNS       = 6
	optDomain    = 15
	optMTU       = 26
	optRequested = 50
	optLease     = 51
	optType      = 53
	optServer    = 54
	optWanted    = 55
	optMaxSize   = 57
	optT1        = 58
	optT2        = 59
	optClient    = 61
	optEnd       = 255
)

// Sizes in bytes.
const (
	bootpSize   = 236 // RFC 2131, figure 1, without options
	minDHCP     = 300 // RFC 951: what relays expect
	maxDHCP     = 1472
	macSize     = 6
	maxListed   = 8 // addresses that are read of a list
	dhcpMagic   = 0x63825363
	bootRequest = 1
	bootReply   = 2
)

// Bounds of what a server may say. It is the host's, so they keep the guest
// from harm, not from a network that is the host's anyway.
const (
	minLease = time.Minute        // shorter ones are refused
	maxLease = 7 * 24 * time.Hour // longer ones are renewed as if they were this long
)

// ErrDHCP is wrapped by every error about a server's message.
var ErrDHCP = errors.New("DHCP message refused")

// Lease is an IPv4 address and what came with it.
type Lease struct {
	Address     netip.Prefix
	Gateway     netip.Addr // or the zero Addr
	NameServers []netip.Addr
	Domain      string // or ""
	MTU         uint16 // or 0
	Server      netip.Addr
	T1, T2, End time.Duration // since the request was sent: renew, rebind, give up
}

// message is a server's message.
type message struct {
	kind  uint8
	lease Lease // of offers and acknowledgements
}

// query is a client's message.
type query struct {
	kind      uint8
	xid       uint32
	seconds   uint16
	mac       [macSize]byte
	own       netip.Addr // ciaddr, while a lease is renewed
	requested netip.Addr // of an offer
	server    netip.Addr // whose offer it is
}

// marshal encodes a query. No host name goes along: it is none of the host's
// business.
func (q *query) marshal() []byte {
	b := make([]byte, bootpSize, minDHCP)
	b[0], b[1], b[2] = bootRequest, linkEthernet, macSize
	binary.BigEndian.PutUint32(b[4:], q.xid)
	binary.BigEndian.PutUint16(b[8:], q.seconds)
	if q.own.Is4() {
		copy(b[12:], q.own.AsSlice())
	}
	copy(b[28:], q.mac[:])
	b = binary.BigEndian.AppendUint32(b, dhcpMagic)
	b = append(b, optType, 1, q.kind)
	b = append(append(b, optClient, 1+macSize, linkEthernet), q.mac[:]...)
	b = append(b, optMaxSize, 2, maxDHCP>>8, maxDHCP&0xff)
	if q.requested.Is4() {
		b = append(append(b, optRequested, 4), q.requested.AsSlice()...)
	}
	if q.server.Is4() {
		b = append(append(b, optServer, 4), q.server.AsSlice()...)
	}
	b = append(b, optWanted, 9, optMask, optRouter, optDNS, optDomain, optMTU, optLease, optServer, optT1, optT2)
	b = append(b, optEnd)
	return append(b, make([]byte, max(0, minDHCP-len(b)))...)
}

// parseMessage reads a server's answer to the query with this number and
// hardware address.
func parseMessage(b []byte, xid uint32, mac [macSize]byte) (*message, error) {
	if len(b) < bootpSize+4 || len(b) > maxDHCP {
		return nil, fmt.Errorf("%w: %d bytes", ErrDHCP, len(b))
	}
	switch {
	case b[0] != bootReply || b[1] != linkEthernet || b[2] != macSize || binary.BigEndian.Uint32(b[bootpSize:]) != dhcpMagic:
		return nil, fmt.Errorf("%w: no DHCP reply for Ethernet", ErrDHCP)
	case binary.BigEndian.Uint32(b[4:]) != xid || [macSize]byte(b[28:34]) != mac:
		return nil, fmt.Errorf("%w: for another client or query", ErrDHCP)
	}
	options, err := parseOptions(b[bootpSize+4:])
	if err != nil {
		return nil, err
	}
	kind := options[optType]
	if len(kind) != 1 {
		return nil, fmt.Errorf("%w: no message type", ErrDHCP)
	}
	m := &message{kind: kind[0]}
	if m.lease.Server, err = address(options[optServer]); err != nil {
		return nil, fmt.Errorf("%w: server's identifier: %w", ErrDHCP, err)
	}
	switch m.kind {
	case dhcpNak:
		return m, nil
	case dhcpOffer, dhcpAck:
		m.lease.Address = netip.PrefixFrom(netip.AddrFrom4([4]byte(b[16:20])), 0)
		return m, m.lease.fill(&options)
	}
	return nil, fmt.Errorf("%w: type %d", ErrDHCP, m.kind)
}

// parseOptions splits options. One that comes twice, or in fields that are for
// names (option 52), is not worth the code: no server does so for what is
// asked for here.
func parseOptions(b []byte) (options [256][]byte, err error) {
	for len(b) > 0 && b[0] != optEnd {
		if b[0] == optPad {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return options, fmt.Errorf("%w: option %d is cut off", ErrDHCP, b[0])
		}
		if options[b[0]] != nil {
			return options, fmt.Errorf("%w: option %d comes twice", ErrDHCP, b[0])
		}
		options[b[0]] = b[2 : 2+int(b[1]) : 2+int(b[1])]
		b = b[2+int(b[1]):]
	}
	if len(b) == 0 {
		return options, fmt.Errorf("%w: options have no end", ErrDHCP)
	}
	return options, nil
}

// fill takes a lease out of options. What the guest can't do without must be
// right; the rest counts where it is right.
func (l *Lease) fill(options *[256][]byte) error {
	mask := options[optMask]
	if len(mask) != 4 {
		return fmt.Errorf("%w: no netmask", ErrDHCP)
	}
	bits, ok := maskBits(binary.BigEndian.Uint32(mask))
	own := l.Address.Addr()
	if !ok || bits < 8 {
		return fmt.Errorf("%w: netmask %d.%d.%d.%d", ErrDHCP, mask[0], mask[1], mask[2], mask[3])
	}
	l.Address = netip.PrefixFrom(own, bits)
	if !machine(own) || network.Edge(l.Address) || own == l.Server {
		return fmt.Errorf("%w: address %s", ErrDHCP, l.Address)
	}
	seconds := options[optLease]
	if len(seconds) != 4 {
		return fmt.Errorf("%w: no lease time", ErrDHCP)
	}
	l.End = time.Duration(binary.BigEndian.Uint32(seconds)) * time.Second
	if l.End < minLease {
		return fmt.Errorf("%w: lease of %d s", ErrDHCP, l.End/time.Second)
	}
	l.End = min(l.End, maxLease)
	l.T1, l.T2 = l.End/2, l.End/8*7
	t1, t2 := seconds32(options[optT1]), seconds32(options[optT2])
	if t1 >= minLease/2 && t1 < t2 && t2 < l.End {
		l.T1, l.T2 = t1, t2
	}
	if g, err := address(options[optRouter]); err == nil && g != own {
		l.Gateway = g
	}
	for d := options[optDNS]; len(d) >= 4 && len(l.NameServers) < maxListed; d = d[4:] {
		if a, err := address(d); err == nil {
			l.NameServers = append(l.NameServers, a)
		}
	}
	if d := string(options[optDomain]); d != "" && sealed.CheckHostname(d) == nil {
		l.Domain = d
	}
	if d := options[optMTU]; len(d) == 2 {
		if mtu := binary.BigEndian.Uint16(d); mtu >= network.MinMTU && mtu <= network.MaxMTU {
			l.MTU = mtu
		}
	}
	return nil
}

func seconds32(b []byte) time.Duration {
	if len(b) != 4 {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Second
}

// address returns a list's first address, which must be a machine's.
func address(b []byte) (netip.Addr, error) {
	if len(b) < 4 || len(b)%4 != 0 {
		return netip.Addr{}, fmt.Errorf("%d bytes", len(b))
	}
	a := netip.AddrFrom4([4]byte(b[:4]))
	if !machine(a) {
		return netip.Addr{}, fmt.Errorf("%s is no machine's address", a)
	}
	return a, nil
}

// machine tells whether an address can be that of a machine that a DHCP server
// speaks of.
func machine(a netip.Addr) bool { return network.Machine(a) && !a.IsLinkLocalUnicast() }

// maskBits counts a netmask's bits, which must be the leading ones.
func maskBits(mask uint32) (bits int, ok bool) {
	for mask&(1<<31) != 0 {
		mask <<= 1
		bits++
	}
	return bits, mask == 0
}
