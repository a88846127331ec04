package network

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/secexec/secexec/sealed"
)

// resolvConf is the text of /etc/resolv.conf: the owner's name servers first,
// then the network's, as many as the C library reads. Nothing to say is "".
func resolvConf(n *sealed.Network, ndots uint8, l *Lease) string {
	var servers []netip.Addr
	var search []string
	if n != nil {
		servers, search = n.NameServers, n.Search
	}
	if l != nil {
		servers = append(servers[:len(servers):len(servers)], l.NameServers...)
		if len(search) == 0 && l.Domain != "" {
			search = []string{l.Domain}
		}
	}
	var b strings.Builder
	for _, s := range servers[:min(len(servers), sealed.MaxNameServers)] {
		b.WriteString("nameserver " + s.String() + "\n")
	}
	if len(search) > 0 {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	if ndots > 0 {
		fmt.Fprintf(&b, "options ndots:%d\n", ndots)
	}
	return b.String()
}

// hosts is the text of /etc/hosts: loopback's names, and the guest's own with
// its first address, as container engines write it.
func hosts(hostname string, n *sealed.Network, l *Lease) string {
	text := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	if hostname == "" {
		return text
	}
	own := netip.AddrFrom4([4]byte{127, 0, 1, 1})
	if n != nil && len(n.Addresses) > 0 {
		own = n.Addresses[0].Addr()
	} else if l != nil {
		own = l.Address.Addr()
	}
	short, _, dotted := strings.Cut(hostname, ".")
	if dotted {
		hostname += " " + short
	}
	return text + fmt.Sprintf("%s\t%s\n", own, hostname)
}
