// Package network brings up the network of a guest whose program guestinit
// supervises: loopback, one interface, static addresses, DHCP or the host's
// description, name servers, host name. It speaks to the kernel by rtnetlink and to
// the DHCP server itself: guestinit has no room for libraries that do more.
//
// The network is the host's. Nothing from it is believed but addresses within
// bounds: docs/network.md.
package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/guestinit/progress"
	"github.com/secexec/secexec/proto/network"
	"github.com/secexec/secexec/sealed"
)

// Wait bounds the time until the network is up, a DHCP lease included. It is
// what users of systemd-networkd and ifupdown are used to, and lets a switch
// port that learns first come up.
const Wait = 30 * time.Second

const lookEvery = 10 * time.Millisecond // for the interface, its carrier and the host's description

// Errors of Up.
var (
	ErrNoInterface   = errors.New("no network interface")
	ErrTwo           = errors.New("several network interfaces")
	ErrSetUp         = errors.New("network interface can't be set up")
	ErrNoLease       = errors.New("no DHCP lease in time")
	ErrNoDescription = errors.New("no description from the host in time")
	ErrDescription   = errors.New("the host's description is refused")
	ErrFiles         = errors.New("the root's network files can't be written")
	errNotUp         = errors.New("no carrier")
)

// Interface is the guest's network interface, up.
type Interface struct {
	kernel   *kernel
	index    uint32
	name     string
	plan     *sealed.Network
	port     func() (int, error) // opens the port of the host's description, not to block
	ndots    uint8               // the host's
	root     string
	dir      string // of the files that are mounted over the root's
	hostname string
	resolv   *os.File // resolv.conf, which renewals write anew

	start  time.Time
	client *client // nil without DHCP
	socket *socket
}

// Lease returns the lease that is held, or nil.
func (i *Interface) Lease() *Lease {
	if i.client == nil || i.client.state < bound {
		return nil
	}
	l := i.client.lease
	return &l
}

// Up sets the host name, where there is one, raises loopback and, where the
// plan has a network, the guest's one interface, and writes the network's files
// into the root. It returns when the network can be used, within Wait: then
// Keep keeps it so, or Close gives it up. Without a network the Interface is nil.
//
// Call it with proc, sys and run mounted; root is "/" after the root was
// switched to.
func Up(ctx context.Context, root, hostname string, n *sealed.Network) (*Interface, error) {
	port := func() (int, error) { return progress.OpenPort(network.Port) }
	return up(ctx, &Interface{plan: n, port: port, root: root, hostname: hostname, dir: filesDir}, physical)
}

// physical tells whether an interface is a device, and none that a kernel makes
// itself.
func physical(l link) bool { return !l.software }

func up(ctx context.Context, i *Interface, wanted func(link) bool) (*Interface, error) {
	ctx, cancel := context.WithTimeout(ctx, Wait)
	defer cancel()
	i.start = time.Now()
	if i.hostname != "" {
		if err := unix.Sethostname([]byte(i.hostname)); err != nil {
			return nil, fmt.Errorf("%w: set host name: %w", ErrSetUp, err)
		}
	}
	k, err := dialKernel()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetUp, err)
	}
	i.kernel = k
	ok := false
	defer func() {
		if !ok || i.plan == nil {
			i.Close()
		}
	}()
	if err := i.raiseLoopback(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetUp, err)
	}
	if i.plan != nil {
		if err := i.configure(ctx, wanted); err != nil {
			return nil, err
		}
	}
	if i.resolv, err = writeFiles(i.dir, i.root, i.hostname, i.plan, i.ndots, i.Lease()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFiles, err)
	}
	ok = true
	if i.plan == nil {
		return nil, nil
	}
	return i, nil
}

// Close gives up the Interface's descriptors. The network stays as it is.
func (i *Interface) Close() {
	i.hangUp()
	i.kernel.close()
	if i.resolv != nil {
		i.resolv.Close()
	}
}

func (i *Interface) raiseLoopback() error {
	links, err := i.kernel.ask(listLinks)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		if l.flags&linkLoopback != 0 {
			return i.raise(l.index, 0)
		}
	}
	return nil // a kernel without one
}

func (i *Interface) raise(index uint32, mtu uint16) error {
	if err := i.kernel.do(func(o binary.ByteOrder, seq uint32) []byte { return raiseLink(o, seq, index, mtu) }); err != nil {
		return fmt.Errorf("raise interface %d: %w", index, err)
	}
	return nil
}

// configure raises the interface with all that the plan says.
func (i *Interface) configure(ctx context.Context, wanted func(link) bool) error {
	found, err := i.find(ctx, wanted)
	if err != nil {
		return err
	}
	i.index, i.name = found.index, found.name
	var ways described
	if i.plan.Source == sealed.Host {
		if ways, err = i.describe(ctx); err != nil {
			return err
		}
	}
	if err := i.sysctls(); err != nil {
		return fmt.Errorf("%w: %w", ErrSetUp, err)
	}
	if err := i.raise(i.index, i.plan.MTU); err != nil {
		return fmt.Errorf("%w: %w", ErrSetUp, err)
	}
	for _, a := range i.plan.Addresses {
		if err := i.address(a, true); err != nil {
			return fmt.Errorf("%w: %w", ErrSetUp, err)
		}
	}
	for _, g := range i.plan.Gateways {
		if err := i.route(all(g), g, protoBoot); err != nil {
			return fmt.Errorf("%w: %w", ErrSetUp, err)
		}
	}
	if err := i.lead(ways); err != nil {
		return fmt.Errorf("%w: %w", ErrSetUp, err)
	}
	if i.plan.Source != sealed.DHCP {
		return i.carrier(ctx)
	}
	if len(found.mac) != macSize {
		return fmt.Errorf("%w: hardware address of %d bytes", ErrSetUp, len(found.mac))
	}
	i.client = newClient([macSize]byte(found.mac), random, time.Since(i.start))
	for i.Lease() == nil {
		if ctx.Err() != nil {
			return ErrNoLease
		}
		if err := i.step(ctx); err != nil {
			return fmt.Errorf("%w: %w", ErrSetUp, err)
		}
	}
	return nil
}

// find waits for the guest's interface. A second one would leave open which is
// meant, and the choice to the host.
func (i *Interface) find(ctx context.Context, wanted func(link) bool) (link, error) {
	for {
		links, err := i.kernel.ask(listLinks)
		if err != nil {
			return link{}, fmt.Errorf("%w: list interfaces: %w", ErrSetUp, err)
		}
		var found []link
		for _, l := range links {
			if l.hardware == linkEthernet && l.flags&linkLoopback == 0 && wanted(l) {
				found = append(found, l)
			}
		}
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return link{}, ErrTwo
		case !pause(ctx, lookEvery):
			return link{}, ErrNoInterface
		}
	}
}

// carrier waits until the interface has one.
func (i *Interface) carrier(ctx context.Context) error {
	for {
		links, err := i.kernel.ask(listLinks)
		if err != nil {
			return fmt.Errorf("%w: list interfaces: %w", ErrSetUp, err)
		}
		for _, l := range links {
			if l.index == i.index && l.flags&linkLowerUp != 0 {
				return nil
			}
		}
		if !pause(ctx, lookEvery) {
			return fmt.Errorf("%w: %w", ErrSetUp, errNotUp)
		}
	}
}

// pause tells whether there is still time after it.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Keep keeps the lease until ctx ends. Between renewals no socket is open and
// nothing wakes. A lease that is lost takes its address with it, and Keep asks
// for another, without end: the program may wait, or end by itself. Without a
// network there is nothing to keep.
func (i *Interface) Keep(ctx context.Context) {
	if i == nil {
		return
	}
	defer i.Close()
	for i.client != nil && ctx.Err() == nil {
		// What the kernel refuses now it may take with the next lease.
		_ = i.step(ctx)
	}
}

// step lets the client do one thing and puts what comes of it to work.
func (i *Interface) step(ctx context.Context) error {
	before := i.Lease()
	a := i.wait(ctx)
	if a.got || a.lost {
		i.hangUp()
	}
	var err error
	switch {
	case a.lost:
		err = i.address(before.Address, false)
	case a.got:
		err = i.obtained(before)
	}
	i.say(a)
	return err
}

// obtained sets what a new or renewed lease says.
func (i *Interface) obtained(before *Lease) error {
	l := i.Lease()
	if before != nil && before.Address != l.Address {
		if err := i.address(before.Address, false); err != nil {
			return err
		}
	}
	if err := i.address(l.Address, true); err != nil {
		return err
	}
	if l.MTU != 0 && i.plan.MTU == 0 {
		_ = i.raise(i.index, l.MTU) // more than the device takes is no harm
	}
	// The kernel drops IPv4 routes with the last address: the owner's is set
	// again, too.
	router, protocol := gateway(i.plan, true), uint8(protoBoot)
	if !router.IsValid() {
		router, protocol = l.Gateway, protoDHCP
	}
	if router.IsValid() {
		if err := i.route(all(router), router, protocol); err != nil {
			return err
		}
	}
	if i.resolv == nil {
		return nil // Up writes it
	}
	return rewrite(i.resolv, resolvConf(i.plan, i.ndots, l))
}

// gateway returns a plan's gateway of a family, or the zero Addr.
func gateway(n *sealed.Network, four bool) netip.Addr {
	for _, g := range n.Gateways {
		if g.Is4() == four {
			return g
		}
	}
	return netip.Addr{}
}

func (i *Interface) address(p netip.Prefix, add bool) error {
	err := i.kernel.do(func(o binary.ByteOrder, seq uint32) []byte { return changeAddress(o, seq, i.index, p, add) })
	if err != nil && (add || !errors.Is(err, unix.EADDRNOTAVAIL)) {
		return fmt.Errorf("set address %s: %w", p, err)
	}
	return nil
}

func (i *Interface) route(to netip.Prefix, gateway netip.Addr, protocol uint8) error {
	err := i.kernel.do(func(o binary.ByteOrder, seq uint32) []byte { return addRoute(o, seq, i.index, to, gateway, protocol) })
	if err != nil {
		return fmt.Errorf("set route to %s by %s: %w", to, gateway, err)
	}
	return nil
}

// sysctls lets the kernel take addresses and a default route from IPv6 routers
// where the plan asks for DHCP, and nothing else from anybody. A plan with
// addresses of its own has no IPv6 that it does not name.
func (i *Interface) sysctls() error {
	six, router := false, "0"
	for _, a := range i.plan.Addresses {
		six = six || a.Addr().Is6()
	}
	if i.plan.Source == sealed.DHCP {
		router = "1"
	}
	defaultRoute := router
	if gateway(i.plan, false).IsValid() {
		defaultRoute = "0"
	}
	off := "1"
	if six || i.plan.Source == sealed.DHCP {
		off = "0"
	}
	for _, s := range []struct {
		path, value string
		must        bool
	}{
		{"ipv4/conf/all/accept_redirects", "0", true},
		{"ipv4/conf/all/accept_source_route", "0", true},
		{"ipv4/conf/" + i.name + "/accept_redirects", "0", true},
		{"ipv4/conf/" + i.name + "/secure_redirects", "0", true},
		{"ipv4/conf/" + i.name + "/send_redirects", "0", true},
		{"ipv4/conf/" + i.name + "/accept_source_route", "0", true},
		{"ipv6/conf/" + i.name + "/accept_ra", router, six},
		{"ipv6/conf/" + i.name + "/autoconf", router, six},
		{"ipv6/conf/" + i.name + "/accept_ra_defrtr", defaultRoute, six},
		{"ipv6/conf/" + i.name + "/accept_ra_rt_info_max_plen", "0", false},
		{"ipv6/conf/" + i.name + "/accept_redirects", "0", six},
		{"ipv6/conf/" + i.name + "/accept_source_route", "-1", six},
		{"ipv6/conf/" + i.name + "/disable_ipv6", off, six},
	} {
		err := os.WriteFile("/proc/sys/net/"+s.path, []byte(s.value), 0)
		if err != nil && (s.must || !errors.Is(err, os.ErrNotExist)) {
			return fmt.Errorf("set %s: %w", s.path, err)
		}
	}
	return nil
}
