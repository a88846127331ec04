// Package network is the description of a guest's network that a host gives to
// guests which are sealed to take it: addresses, default routes, name servers.
// A provider's program makes it (in Kubernetes the shim, of a pod's network),
// hostagent passes it on unread, and guestinit believes it within the bounds
// here. docs/formats/network-description.md is the encoding in words.
package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Port is the name of the virtio-serial port that a guest reads its
// description from, once.
const Port = "org.secexec.network.0"

// Bounds of a description.
const (
	MaxAddresses   = 16
	MaxRoutes      = 16
	MaxNameServers = 3 // resolv.conf(5): MAXNS
	MaxSearch      = 6 // resolv.conf(5): MAXDNSRCH
	MaxNdots       = 15
	MinMTU         = 576
	MinMTU6        = 1280 // RFC 8200: below it Linux has no IPv6
	MaxMTU         = 9000

	minBits = 8 // of a prefix: a larger network is none that guests are in
)

// ErrInvalid is wrapped by every error about a description.
var ErrInvalid = errors.New("invalid network description")

// Description is a guest's network as its host describes it.
type Description struct {
	MTU         uint16         // 0: the device's
	Addresses   []netip.Prefix // 1 to 16, each a machine's with its network's prefix length
	Gateways    []Gateway      // default routes, at most one of each family
	Routes      []Route        // others
	NameServers []netip.Addr
	Ndots       uint8    // resolv.conf(5): ndots; 0: not said
	Search      []string // domains
}

// Gateway is a default route. It may lie outside of the guest's prefixes, as
// some network plugins have it.
type Gateway struct {
	Address netip.Addr
	MAC     [6]byte // hardware address, where nobody answers for it; zero: the guest asks
}

// Route is a way to a network beside the default routes.
type Route struct {
	To  netip.Prefix // without bits behind its length
	Via netip.Addr   // a gateway, not of the default route; invalid: To is reached directly
}

// Check refuses what no guest takes.
func (d *Description) Check() error {
	switch {
	case d.MTU != 0 && (d.MTU < MinMTU || d.MTU > MaxMTU):
		return invalid("MTU %d is not in %d..%d", d.MTU, MinMTU, MaxMTU)
	case len(d.Addresses) == 0 || len(d.Addresses) > MaxAddresses:
		return invalid("%d addresses, wants 1 to %d", len(d.Addresses), MaxAddresses)
	case len(d.Routes) > MaxRoutes:
		return invalid("%d routes, at most %d", len(d.Routes), MaxRoutes)
	case len(d.Gateways) > 2 || len(d.NameServers) > MaxNameServers || len(d.Search) > MaxSearch:
		return invalid("more than 2 gateways, %d name servers or %d search domains", MaxNameServers, MaxSearch)
	case d.Ndots > MaxNdots:
		return invalid("ndots %d, at most %d", d.Ndots, MaxNdots)
	}
	own, families := make(map[netip.Addr]bool), make(map[bool]bool)
	for _, p := range d.Addresses {
		a := p.Addr()
		if !Machine(a) || a.IsLinkLocalUnicast() || p.Bits() < minBits || a.Is4() && Edge(p) || own[a] {
			return invalid("%s is no machine's address with prefix length, or there twice", p)
		}
		if a.Is6() && d.MTU != 0 && d.MTU < MinMTU6 {
			return invalid("MTU %d with an IPv6 address, wants %d", d.MTU, MinMTU6)
		}
		own[a], families[a.Is4()] = true, true
	}
	routes := make(map[netip.Prefix]bool)
	for _, r := range d.Routes {
		a := r.To.Addr()
		if r.To != r.To.Masked() || r.To.Bits() < 1 || !Machine(a) || a.Is6() && a.IsLinkLocalUnicast() || !families[a.Is4()] || routes[r.To] {
			return invalid("%s is no network of a family that the guest has, or there twice", r.To)
		}
		if r.Via.IsValid() && (!Machine(r.Via) || own[r.Via] || r.Via.Is4() != a.Is4()) {
			return invalid("%s is no gateway to %s", r.Via, r.To)
		}
		routes[r.To] = true
	}
	for _, g := range d.Gateways {
		if !Machine(g.Address) || own[g.Address] || !families[g.Address.Is4()] {
			return invalid("%s is no other machine's address of a family that the guest has, or one of two gateways", g.Address)
		}
		if g.MAC[0]&1 != 0 {
			return invalid("hardware address %x of a gateway is that of a group", g.MAC)
		}
		delete(families, g.Address.Is4())
	}
	for i, a := range d.NameServers {
		if !Machine(a) || a.Is6() && a.IsLinkLocalUnicast() { // the latter wants to know the interface
			return invalid("%s is no address of a name server", a)
		}
		for _, before := range d.NameServers[:i] {
			if a == before {
				return invalid("name server %s is there twice", a)
			}
		}
	}
	for _, s := range d.Search {
		if !domain(s) {
			return invalid("search domain %.80q is not labels of letters, digits and '-'", s)
		}
	}
	return nil
}

// Machine tells whether an address, in its one form, can be that of a machine
// on a network: not loopback, above all.
func Machine(a netip.Addr) bool {
	switch {
	case !a.IsValid() || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback():
		return false
	case a.Is4():
		first := a.As4()[0]
		return first != 0 && first < 224
	}
	return true
}

// Edge tells whether an IPv4 address is its network's own, or its broadcast
// address.
func Edge(p netip.Prefix) bool {
	if p.Bits() > 30 {
		return false // RFC 3021
	}
	raw := p.Addr().As4()
	hosts := ^uint32(0) >> p.Bits()
	host := binary.BigEndian.Uint32(raw[:]) & hosts
	return host == 0 || host == hosts
}

const maxDomain = 253

func domain(s string) bool {
	if len(s) > maxDomain {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool {
				return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
			}) {
			return false
		}
	}
	return true
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
