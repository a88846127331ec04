package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/secexec/secexec/proto/network"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// by is a route; "" goes directly.
func by(to, via string) route {
	r := route{to: prefix(to)}
	if via != "" {
		r.via = netip.MustParseAddr(via)
	}
	return r
}

// What network plugins give a pod, and what a guest is told or why it can't be.
func TestDescribe(t *testing.T) {
	t.Parallel()
	mac := [6]byte{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}
	for name, c := range map[string]struct {
		facts facts
		want  network.Description
		words string // of a refusal
	}{
		"bridge": {
			facts: facts{mtu: 1450, addresses: []netip.Prefix{prefix("10.244.1.7/24"), prefix("fe80::1:2/64")}, routes: []route{by("0.0.0.0/0", "10.244.1.1"), by("10.244.1.0/24", ""), by("10.244.0.0/16", "10.244.1.1"), by("fe80::/64", ""), by("ff00::/8", "")}},
			want:  network.Description{MTU: 1450, Addresses: []netip.Prefix{prefix("10.244.1.7/24")}, Gateways: []network.Gateway{{Address: netip.MustParseAddr("10.244.1.1")}}},
		},
		"routed to each pod, two families": {
			facts: facts{
				mtu: 1480, addresses: []netip.Prefix{prefix("192.168.77.3/32"), prefix("fd00:77::3/128")},
				routes:     []route{by("0.0.0.0/0", "169.254.1.1"), by("169.254.1.1/32", ""), by("::/0", "fe80::ecee:eeff:feee:eeee"), by("fd00:77::3/128", "")},
				neighbours: map[netip.Addr][6]byte{netip.MustParseAddr("169.254.1.1"): mac, netip.MustParseAddr("10.9.9.9"): {2}},
			},
			want: network.Description{MTU: 1480, Addresses: []netip.Prefix{prefix("192.168.77.3/32"), prefix("fd00:77::3/128")}, Gateways: []network.Gateway{{Address: netip.MustParseAddr("169.254.1.1"), MAC: mac}, {Address: netip.MustParseAddr("fe80::ecee:eeff:feee:eeee")}}},
		},
		"point to point": {
			facts: facts{mtu: 1500, addresses: []netip.Prefix{prefix("10.0.3.5/24")}, routes: []route{by("10.0.3.1/32", ""), by("0.0.0.0/0", "10.0.3.1"), by("10.0.3.0/24", "10.0.3.1")}},
			want:  network.Description{MTU: 1500, Addresses: []netip.Prefix{prefix("10.0.3.5/32")}, Gateways: []network.Gateway{{Address: netip.MustParseAddr("10.0.3.1")}}},
		},
		"point to point without a way out": {
			facts: facts{mtu: 1500, addresses: []netip.Prefix{prefix("10.0.3.5/24")}, routes: []route{by("10.0.3.1/32", ""), by("10.0.3.0/24", "10.0.3.1")}},
			want:  network.Description{MTU: 1500, Addresses: []netip.Prefix{prefix("10.0.3.5/32")}, Routes: []network.Route{{To: prefix("10.0.3.0/24"), Via: netip.MustParseAddr("10.0.3.1")}}},
		},
		"other ways": {
			facts: facts{mtu: 1500, addresses: []netip.Prefix{prefix("10.0.3.5/24")}, routes: []route{by("10.0.3.0/24", ""), by("0.0.0.0/0", "10.0.3.1"), by("10.96.0.0/12", "10.0.3.254"), by("10.128.0.0/9", ""), by("10.64.0.0/12", "10.0.3.1")}},
			want: network.Description{MTU: 1500, Addresses: []netip.Prefix{prefix("10.0.3.5/24")}, Gateways: []network.Gateway{{Address: netip.MustParseAddr("10.0.3.1")}},
				Routes: []network.Route{{To: prefix("10.96.0.0/12"), Via: netip.MustParseAddr("10.0.3.254")}, {To: prefix("10.128.0.0/9")}}},
		},
		"no way out": {
			facts: facts{mtu: 1500, addresses: []netip.Prefix{prefix("10.0.3.5/24")}, routes: []route{by("10.0.3.0/24", "")}},
			want:  network.Description{MTU: 1500, Addresses: []netip.Prefix{prefix("10.0.3.5/24")}},
		},
		"jumbo frames": {
			facts: facts{mtu: 9001, addresses: []netip.Prefix{prefix("10.0.3.5/32")}},
			want:  network.Description{MTU: 9000, Addresses: []netip.Prefix{prefix("10.0.3.5/32")}},
		},
		"no address":                {facts: facts{mtu: 1500, addresses: []netip.Prefix{prefix("fe80::1/64")}}, words: "0 addresses"},
		"link-local address":        {facts: facts{mtu: 1500, addresses: []netip.Prefix{prefix("169.254.7.7/16")}}, words: "169.254.7.7/32"},
		"two ways out":              {facts: facts{mtu: 1500, addresses: []netip.Prefix{prefix("10.0.3.5/24")}, routes: []route{by("0.0.0.0/0", "10.0.3.1"), by("0.0.0.0/0", "10.0.3.2")}}, words: "two default routes, by 10.0.3.1 and 10.0.3.2"},
		"way out without a gateway": {facts: facts{mtu: 1500, addresses: []netip.Prefix{prefix("10.0.3.5/24")}, routes: []route{by("0.0.0.0/0", "")}}, words: "no gateway"},
		"ways without number":       {facts: facts{mtu: 1500, addresses: []netip.Prefix{prefix("10.0.3.5/32")}, routes: many()}, words: "17 routes"},
		"small packets":             {facts: facts{mtu: 500, addresses: []netip.Prefix{prefix("10.0.3.5/24")}}, words: "MTU 500"},
	} {
		got, err := describe(c.facts)
		switch {
		case c.words != "" && (!errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), c.words)):
			t.Errorf("%s: %v, want %q", name, err, c.words)
		case c.words == "" && (err != nil || !reflect.DeepEqual(got, c.want)):
			t.Errorf("%s: %+v, %v\nwants %+v", name, got, err, c.want)
		}
	}
}

func many() (routes []route) {
	for i := range network.MaxRoutes + 1 {
		routes = append(routes, by(fmt.Sprintf("10.%d.0.0/16", i+1), ""))
	}
	return routes
}

func TestResolve(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 64)
	for text, c := range map[string]struct {
		servers, search string
		ndots           uint8
		left            []string
	}{
		"": {},
		"search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n":          {"10.96.0.10", "default.svc.cluster.local svc.cluster.local cluster.local", 5, nil},
		"# of the node\nnameserver 127.0.0.53 ; its own\n nameserver 169.254.20.10\nnameserver ::1\noptions edns0 ndots:99\n": {"169.254.20.10", "", 15, []string{"nameserver 127.0.0.53", "nameserver ::1", "options edns0"}},
		"domain a.example\nsearch b.example. under_score.example " + long + "\nnameserver\nsortlist x\n":                      {"", "b.example", 0, []string{"search under_score.example", "search " + long}},
		"nameserver 10.0.0.1\nnameserver 10.0.0.1\nnameserver fd00::a\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n":            {"10.0.0.1 fd00::a 10.0.0.2", "", 0, []string{"nameserver 10.0.0.1", "nameserver 10.0.0.3"}},
		"search a b c d e f g\nnameserver fe80::1%eth0\nnameserver x\n":                                                       {"", "a b c d e f", 0, []string{"search g", "nameserver fe80::1%eth0", "nameserver x"}},
	} {
		p := &Pod{Description: network.Description{MTU: 1400, Addresses: []netip.Prefix{prefix("10.0.3.5/24")}, Ndots: 3, Search: []string{"before"}}}
		left, err := p.Resolve([]byte(text))
		var servers []string
		for _, a := range p.Description.NameServers {
			servers = append(servers, a.String())
		}
		if d := p.Description; err != nil || strings.Join(servers, " ") != c.servers || strings.Join(d.Search, " ") != c.search || d.Ndots != c.ndots || !slices.Equal(left, c.left) || d.MTU != 1400 {
			t.Errorf("%q: %+v, left %q, %v", text, d, left, err)
		}
	}
	if _, err := new(Pod).Resolve(make([]byte, maxResolv+1)); err == nil {
		t.Error("a resolv.conf of any size is read")
	}
}

// Whatever a resolv.conf holds, a guest takes what is made of it.
func FuzzResolve(f *testing.F) {
	f.Add([]byte("nameserver 10.96.0.10\nsearch a.b c\noptions ndots:5\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := &Pod{Description: network.Description{Addresses: []netip.Prefix{prefix("10.0.3.5/24")}}}
		if _, err := p.Resolve(text); err != nil {
			return
		}
		if _, err := p.Description.Marshal(); err != nil {
			t.Error(err)
		}
	})
}
