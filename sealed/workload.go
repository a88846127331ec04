package sealed

import (
	"net/netip"
	"strings"
)

// Limits of a workload.
const (
	MaxArgs        = 256      // of Args and of Env each
	MaxWords       = 32 << 10 // bytes of Args and Env together
	MaxGroups      = 64
	MaxAddresses   = 16
	MaxNameServers = 3 // resolv.conf(5): MAXNS
	MaxSearch      = 6 // resolv.conf(5): MAXDNSRCH
)

// RestartPolicy says when a program that ended is run again.
type RestartPolicy uint8

// Restart policies.
const (
	RestartNever     RestartPolicy = 0
	RestartOnFailure RestartPolicy = 1 // it ended by a signal or with a status that is not 0
	RestartAlways    RestartPolicy = 2
)

// Workload is the one program of a root that has no init, such as a container
// image's entry point. guestinit stays PID 1 and runs it.
type Workload struct {
	Args         []string // the program first: a path, or a name to look for in Env's PATH
	Env          []string // NAME=VALUE
	UID, GID     uint32
	Groups       []uint32 // supplementary
	Dir          string   // working directory, absolute; "/" is allowed
	Capabilities uint64   // bit n: capability n (capabilities(7)). The bounding set, and what a program of root's has
	Ambient      uint64   // those of Capabilities that the program has without being root's: inheritable and ambient
	NoNewPrivs   bool
	StopSignal   uint8  // on a power-down request; 15 is SIGTERM
	StopSeconds  uint32 // then it is killed
	Restart      RestartPolicy
	MaxRestarts  uint32 // in RestartWindow, then the guest powers off; 0: no limit
	WindowSecs   uint32 // restarts older than this don't count
	Hostname     string // "" : none
	Network      *Network
}

// Source says where a network's configuration comes from beside what is sealed.
// What it says is checked, and believed for nothing but the network.
type Source uint8

// Sources.
const (
	Static Source = 0 // nowhere: all of it is sealed
	DHCP   Source = 1 // an IPv4 address is asked for
	Host   Source = 2 // the host describes it (package proto/network)
)

// Network is the configuration of the guest's one network interface.
type Network struct {
	Source      Source
	Addresses   []netip.Prefix // static ones, IPv4 and IPv6
	Gateways    []netip.Addr   // default routes, at most one of each family
	MTU         uint16         // 0: the source's, or the device's
	NameServers []netip.Addr   // go before the source's
	Search      []string       // domains; none: the source's
}

// Check refuses what no record may have.
func (w *Workload) Check() error {
	if w == nil {
		return nil
	}
	switch {
	case len(w.Args) == 0 || len(w.Args) > MaxArgs || w.Args[0] == "" || strings.HasPrefix(w.Args[0], "-"):
		return invalid("workload has %d arguments, wants a program and at most %d", len(w.Args), MaxArgs)
	case len(w.Env) > MaxArgs:
		return invalid("workload has %d variables, at most %d", len(w.Env), MaxArgs)
	case len(w.Groups) > MaxGroups:
		return invalid("workload has %d groups, at most %d", len(w.Groups), MaxGroups)
	case w.Dir != "/" && !cleanAbs(w.Dir):
		return invalid("working directory %q is not a clean absolute path of at most %d bytes", w.Dir, MaxPath)
	case w.Capabilities>>41 != 0:
		return invalid("capabilities %#x, the last one known is 40", w.Capabilities)
	case w.Ambient&^w.Capabilities != 0:
		return invalid("ambient capabilities %#x are not all in %#x", w.Ambient, w.Capabilities)
	case w.StopSeconds == 0 || w.StopSeconds > 3600:
		return invalid("workload gets %d seconds to stop, wants 1 to 3600", w.StopSeconds)
	case w.Restart > RestartAlways:
		return invalid("restart policy %d is none of 0, 1, 2", w.Restart)
	case (w.MaxRestarts > 0) != (w.WindowSecs > 0):
		return invalid("restarts are limited by a number and a window, or by neither")
	case w.Hostname != "" && CheckHostname(w.Hostname) != nil:
		return CheckHostname(w.Hostname)
	}
	total := 0
	for _, s := range append(w.Args[:len(w.Args):len(w.Args)], w.Env...) {
		total += len(s)
	}
	if total > MaxWords {
		return invalid("arguments and variables have %d bytes, at most %d", total, MaxWords)
	}
	for _, s := range w.Args {
		if len(s) > MaxText || strings.IndexByte(s, 0) >= 0 {
			return invalid("argument %.40q has a NUL or more than %d bytes", s, MaxText)
		}
	}
	names := make(map[string]bool, len(w.Env))
	for _, s := range w.Env {
		name, _, ok := strings.Cut(s, "=")
		if !ok || name == "" || names[name] || len(s) > MaxText || strings.IndexByte(s, 0) >= 0 {
			return invalid("variable %.40q is not one NAME=VALUE of at most %d bytes", s, MaxText)
		}
		names[name] = true
	}
	if err := checkSignal(w.StopSignal); err != nil {
		return err
	}
	return w.Network.check()
}

// CheckHostname refuses what may not be a guest's host name.
func CheckHostname(s string) error {
	if len(s) == 0 || len(s) > 64 { // HOST_NAME_MAX
		return invalid("host name %q has not 1 to 64 characters", s)
	}
	return checkDomain("host name", s)
}

func checkDomain(what, s string) error {
	if len(s) > 253 {
		return invalid("%s %.40q is longer than 253 characters", what, s)
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool {
				return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
			}) {
			return invalid("%s %q is not labels of letters, digits and '-'", what, s)
		}
	}
	return nil
}

func (n *Network) check() error {
	if n == nil {
		return nil
	}
	switch {
	case n.Source > Host:
		return invalid("network source %d is none of 0, 1, 2", n.Source)
	case n.Source == Static && len(n.Addresses) == 0:
		return invalid("network has no source and no address")
	case len(n.Addresses) > MaxAddresses || len(n.Gateways) > 2 || len(n.NameServers) > MaxNameServers || len(n.Search) > MaxSearch:
		return invalid("network has more than %d addresses, 2 gateways, %d name servers or %d search domains", MaxAddresses, MaxNameServers, MaxSearch)
	case n.MTU != 0 && n.MTU < 576:
		return invalid("MTU %d is less than 576", n.MTU)
	case len(n.Gateways) == 2 && n.Gateways[0].Is4() == n.Gateways[1].Is4():
		return invalid("two gateways of one family")
	}
	for _, a := range n.Addresses {
		if !a.IsValid() || !usable(a.Addr()) || a.Bits() == 0 {
			return invalid("%s is no address with prefix length", a)
		}
	}
	for _, a := range append(append([]netip.Addr(nil), n.Gateways...), n.NameServers...) {
		if !usable(a) {
			return invalid("%s is no address of a gateway or name server", a)
		}
	}
	for _, s := range n.Search {
		if err := checkDomain("search domain", s); err != nil {
			return err
		}
	}
	return nil
}

// usable tells whether an address can be a machine's. It is in its one form: no
// zone, no IPv4 in IPv6.
func usable(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast()
}

func (w *Workload) fields(c *codec) {
	text := func(c *codec, s *string) { c.text(s, MaxText) }
	list(c, &w.Args, MaxArgs, text)
	list(c, &w.Env, MaxArgs, text)
	c.u32(&w.UID)
	c.u32(&w.GID)
	list(c, &w.Groups, MaxGroups, (*codec).u32)
	c.path(&w.Dir)
	c.u64(&w.Capabilities)
	c.u64(&w.Ambient)
	c.flag(&w.NoNewPrivs)
	c.u8(&w.StopSignal)
	c.u32(&w.StopSeconds)
	c.u8((*uint8)(&w.Restart))
	c.u32(&w.MaxRestarts)
	c.u32(&w.WindowSecs)
	c.path(&w.Hostname)
	maybe(c, &w.Network, func(c *codec, n *Network) { n.fields(c) })
}

func (n *Network) fields(c *codec) {
	c.u8((*uint8)(&n.Source))
	list(c, &n.Addresses, MaxAddresses, (*codec).prefix)
	list(c, &n.Gateways, 2, (*codec).address)
	c.u16(&n.MTU)
	list(c, &n.NameServers, MaxNameServers, (*codec).address)
	list(c, &n.Search, MaxSearch, (*codec).path)
}

// address is the address's size, 4 or 16, and its bytes.
func (c *codec) address(a *netip.Addr) {
	b := a.AsSlice()
	size := uint8(len(b))
	c.u8(&size)
	if size != 4 && size != 16 {
		c.fail("address of %d bytes, wants 4 or 16", size)
		return
	}
	if c.decoding {
		b = make([]byte, size)
	}
	c.fixed(b)
	if c.decoding {
		*a, _ = netip.AddrFromSlice(b)
	}
}

// prefix is an address and the length of its network's prefix.
func (c *codec) prefix(p *netip.Prefix) {
	a, bits := p.Addr(), uint8(p.Bits())
	c.address(&a)
	c.u8(&bits)
	if c.decoding && c.err == nil {
		*p = netip.PrefixFrom(a, int(bits))
	}
}
