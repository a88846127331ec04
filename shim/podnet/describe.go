// Package podnet joins a sealed guest to a pod's network. The network plugin made
// an interface in the pod's network namespace, usually eth0, and gave it
// addresses; a guest needs a tap interface and must learn the addresses. So
//
//	peer on the node ── eth0 ◀─ tc redirect ─▶ secexec0 ── QEMU ── the guest's eth0
//	                    └───── pod's network namespace ─────┘
//
// every frame that arrives at the one leaves by the other, whatever it is
// (Kata Containers calls this model tcfilter). The guest has the pod's hardware
// address, so the plugin's rules against forged addresses hold, and reaches what
// is behind the pod's interface and nothing else of the node.
//
// Nothing here outlives its call but what the kernel keeps in the namespace: a
// shim that died forgets nothing.
package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/secexec/secexec/proto/network"
)

// Tap is the name of the guest's tap interface in the pod's namespace.
const Tap = "secexec0"

// Errors.
var (
	// ErrUnfit says that a sealed guest can't have the pod's network as it is.
	ErrUnfit = errors.New("pod's network does not fit a sealed guest")
	// ErrInUse says that a guest uses the tap interface.
	ErrInUse = errors.New("a guest is on the pod's network")
	// ErrHostNetwork says that the namespace is the node's own.
	ErrHostNetwork = errors.New("pod has the node's own network, which a sealed guest can't: leave hostNetwork out")
)

// Pod is a pod's network, as Join found it.
type Pod struct {
	NetNS       string // path of the namespace
	Interface   string // the plugin's
	MAC         string // its hardware address, which the guest must have
	Description network.Description
}

// facts are what the kernel says of a pod's interface.
type facts struct {
	mtu        int
	addresses  []netip.Prefix
	routes     []route
	neighbours map[netip.Addr][6]byte // those that were set for good
}

// route is a route by the pod's interface: to a destination, 0 bits: all, by a
// gateway or, without one, directly.
type route struct {
	to  netip.Prefix
	via netip.Addr
}

// describe makes the guest's description of what its pod has.
func describe(f facts) (network.Description, error) {
	d := network.Description{MTU: uint16(min(f.mtu, network.MaxMTU))}
	for _, p := range f.addresses {
		if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			continue // the kernel's own, of the pod's interface; the guest's makes the same one
		}
		// Some plugins give an address the length of the pods' network, and take away
		// the route that comes with it: there is nobody on the link but the gateway.
		if !slices.Contains(f.routes, route{to: p.Masked()}) {
			p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
		}
		d.Addresses = append(d.Addresses, p)
	}
	gateways := make(map[bool]netip.Addr)
	for _, r := range f.routes {
		four := r.to.Addr().Is4()
		switch {
		case r.to.Bits() != 0:
		case !r.via.IsValid() || r.via.Is4() != four:
			return d, unfit("its default route has no gateway of its own family")
		case gateways[four].IsValid() && gateways[four] != r.via:
			return d, unfit("it has two default routes, by %s and %s", gateways[four], r.via)
		case !gateways[four].IsValid():
			gateways[four] = r.via
			d.Gateways = append(d.Gateways, network.Gateway{Address: r.via, MAC: f.neighbours[r.via]})
		}
	}
	for _, r := range f.routes {
		if !f.implied(r, gateways[r.to.Addr().Is4()]) {
			d.Routes = append(d.Routes, network.Route{To: r.to, Via: r.via})
		}
	}
	if err := d.Check(); err != nil {
		return d, unfit("%w", err)
	}
	return d, nil
}

// implied tells whether a guest has a route without being told: default routes,
// what they cover, those that come with an address, and ways to gateways, which
// are reached without.
func (f *facts) implied(r route, gateway netip.Addr) bool {
	to := r.to.Addr()
	switch {
	case r.to.Bits() == 0, to.Is6() && (to.IsLinkLocalUnicast() || to.IsMulticast()):
		return true
	case r.via.IsValid():
		return r.via == gateway
	}
	return slices.ContainsFunc(f.addresses, func(p netip.Prefix) bool { return p.Masked() == r.to }) ||
		r.to.IsSingleIP() && slices.ContainsFunc(f.routes, func(other route) bool { return other.via == to })
}

func unfit(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnfit, fmt.Errorf(format, args...))
}
