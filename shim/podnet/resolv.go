package podnet

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/secexec/secexec/proto/network"
)

// maxResolv bounds a resolv.conf, in bytes. Kubernetes' own bound is 2048
// characters of search domains.
const maxResolv = 16 << 10

// Resolve puts what a resolv.conf says (resolv.conf(5)) into the pod's
// description: the runtime writes one for each pod and mounts it into
// containers, which a guest is not. It returns the lines or words that a guest
// does not take, such as a name server on loopback, for the log.
func (p *Pod) Resolve(text []byte) (left []string, err error) {
	if len(text) > maxResolv {
		return nil, fmt.Errorf("read the pod's resolv.conf: %d bytes, at most %d", len(text), maxResolv)
	}
	p.Description.NameServers, p.Description.Search, p.Description.Ndots = nil, nil, 0
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		line, _, _ = strings.Cut(line, ";")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			server, _ := netip.ParseAddr(words[1])
			if !p.try(func(d *network.Description) { d.NameServers = append(slices.Clip(d.NameServers), server) }) {
				left = append(left, "nameserver "+words[1])
			}
		case "search", "domain": // the last one counts
			p.Description.Search = nil
			for _, s := range words[1:] {
				name := strings.TrimSuffix(s, ".")
				if !p.try(func(d *network.Description) { d.Search = append(slices.Clip(d.Search), name) }) {
					left = append(left, "search "+s)
				}
			}
		case "options":
			for _, option := range words[1:] {
				n, ok := strings.CutPrefix(option, "ndots:")
				if count, err := strconv.ParseUint(n, 10, 32); ok && err == nil {
					p.Description.Ndots = uint8(min(count, network.MaxNdots))
					continue
				}
				left = append(left, "options "+option)
			}
		}
	}
	return left, nil
}

// try makes a change to the description where a guest takes it.
func (p *Pod) try(change func(*network.Description)) bool {
	d := p.Description
	change(&d)
	if d.Check() != nil {
		return false
	}
	p.Description = d
	return true
}
