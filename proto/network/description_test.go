package network

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/secexec/secexec/docs/formats/vectors"
)

var update = flag.Bool("update", false, "rewrite vectors")

const vectorDir = "../../docs/formats/vectors/network-description"

var vectorFields = []string{"mtu", "addresses", "gateways", "routes", "name-servers", "ndots", "search"}

func small() *Description {
	return &Description{Addresses: []netip.Prefix{netip.MustParsePrefix("10.88.0.7/16")}}
}

// full is a pod's with two families, as Kubernetes has it.
func full() *Description {
	return &Description{
		MTU:         1450,
		Addresses:   []netip.Prefix{netip.MustParsePrefix("10.244.1.7/24"), netip.MustParsePrefix("fd00:10:244:1::7/64")},
		Gateways:    []Gateway{{Address: netip.MustParseAddr("10.244.1.1")}, {Address: netip.MustParseAddr("fe80::1"), MAC: [6]byte{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}}},
		Routes:      []Route{{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParseAddr("10.244.1.254")}, {To: netip.MustParsePrefix("fd00:10:245::/64")}},
		NameServers: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")}, Ndots: 5,
		Search: []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"},
	}
}

// routed is what plugins give that route to each pod: no network around the
// address, a gateway and a name server that are link-local.
func routed() *Description {
	return &Description{
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.77.3/32")},
		Gateways:  []Gateway{{Address: netip.MustParseAddr("169.254.1.1")}}, NameServers: []netip.Addr{netip.MustParseAddr("169.254.20.10")},
	}
}

// most has of everything the most.
func most() *Description {
	d := &Description{MTU: MaxMTU, Ndots: MaxNdots, Gateways: []Gateway{{Address: netip.MustParseAddr("fe80::ff")}}}
	for i := range MaxAddresses {
		d.Addresses = append(d.Addresses, netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1)), 128))
	}
	for i := range MaxRoutes {
		d.Routes = append(d.Routes, Route{netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x::/48", 0x100+i)), netip.MustParseAddr("fe80::fe")})
	}
	for i := range MaxNameServers {
		d.NameServers = append(d.NameServers, netip.MustParseAddr(fmt.Sprintf("2001:db8:53::%x", i+1)))
	}
	label := strings.Repeat("d", 63)
	for range MaxSearch {
		d.Search = append(d.Search, strings.Join([]string{label, label, label, label[:61]}, "."))
	}
	return d
}

var spoilers = map[string]func(d *Description){
	"mtu small":             func(d *Description) { d.MTU = 575 },
	"mtu large":             func(d *Description) { d.MTU = 9001 },
	"mtu small for ipv6":    func(d *Description) { d.MTU = 1279 },
	"no address":            func(d *Description) { d.Addresses, d.Gateways = nil, nil },
	"address twice":         func(d *Description) { d.Addresses[1] = d.Addresses[0] },
	"address loopback":      address("127.0.0.1/8"),
	"address loopback 6":    address("::1/128"),
	"address link-local":    address("169.254.7.7/16"),
	"address link-local 6":  address("fe80::7/64"),
	"address multicast":     address("224.0.0.1/24"),
	"address class e":       address("240.0.0.1/24"),
	"address zero":          address("0.0.0.0/8"),
	"address mapped":        address("::ffff:10.0.0.1/120"),
	"address network":       address("10.244.1.0/24"),
	"address broadcast":     address("10.244.1.255/24"),
	"prefix short":          address("10.244.1.7/7"),
	"gateway twice":         func(d *Description) { d.Gateways[1] = Gateway{Address: netip.MustParseAddr("10.244.1.2")} },
	"gateway own":           func(d *Description) { d.Gateways[0].Address = d.Addresses[0].Addr() },
	"gateway loopback":      func(d *Description) { d.Gateways[0].Address = netip.MustParseAddr("127.0.0.1") },
	"gateway other family":  func(d *Description) { d.Addresses = d.Addresses[:1] },
	"gateway group mac":     func(d *Description) { d.Gateways[0].MAC[0] = 1 },
	"route default":         route("0.0.0.0/0", "10.244.1.254"),
	"route host bits":       route("10.96.0.1/12", "10.244.1.254"),
	"route loopback":        route("127.0.0.0/8", "10.244.1.254"),
	"route multicast":       route("224.0.0.0/4", "10.244.1.254"),
	"route link-local 6":    route("fe80::/64", "fe80::1"),
	"route twice":           func(d *Description) { d.Routes[1] = d.Routes[0] },
	"route other family":    func(d *Description) { d.Routes[0].Via = netip.MustParseAddr("fe80::1") },
	"route by itself":       func(d *Description) { d.Routes[0].Via = d.Addresses[0].Addr() },
	"route by loopback":     route("10.96.0.0/12", "127.0.0.1"),
	"server loopback":       func(d *Description) { d.NameServers[0] = netip.MustParseAddr("127.0.0.53") },
	"server link-local 6":   func(d *Description) { d.NameServers[0] = netip.MustParseAddr("fe80::1") },
	"server twice":          func(d *Description) { d.NameServers[1] = d.NameServers[0] },
	"ndots large":           func(d *Description) { d.Ndots = 16 },
	"search empty":          func(d *Description) { d.Search[0] = "" },
	"search line feed":      func(d *Description) { d.Search[0] = "a\nnameserver 192.0.2.1" },
	"search option":         func(d *Description) { d.Search[0] = "a options rotate" },
	"search dot at the end": func(d *Description) { d.Search[0] = "cluster.local." },
	"search label long":     func(d *Description) { d.Search[0] = strings.Repeat("a", 64) },
	"search long":           func(d *Description) { d.Search[0] = most().Search[0] + "x" },
}

func route(to, via string) func(d *Description) {
	return func(d *Description) {
		d.Routes[0] = Route{netip.MustParsePrefix(to), netip.MustParseAddr(via)}
	}
}

func address(s string) func(d *Description) {
	return func(d *Description) { d.Addresses[0] = netip.MustParsePrefix(s) }
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, spoil := range spoilers {
		d := full()
		spoil(d)
		if _, err := d.Marshal(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, lists := range []*Description{
		{Addresses: make([]netip.Prefix, MaxAddresses+1)},
		{Addresses: full().Addresses, Gateways: make([]Gateway, 3)},
		{Addresses: full().Addresses, Routes: make([]Route, MaxRoutes+1)}, {Addresses: full().Addresses, Routes: make([]Route, 1)},
		{Addresses: full().Addresses, NameServers: make([]netip.Addr, MaxNameServers+1)},
		{Addresses: full().Addresses, Search: make([]string, MaxSearch+1)},
		{Addresses: []netip.Prefix{{}}},
		{Addresses: full().Addresses, NameServers: []netip.Addr{netip.MustParseAddr("2001:db8::1%eth0")}},
	} {
		if err := lists.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%d addresses, %d gateways, %d servers, %d domains: %v", len(lists.Addresses), len(lists.Gateways), len(lists.NameServers), len(lists.Search), err)
		}
	}
	b, err := most().Marshal()
	if err != nil || len(b) > MaxSize || len(b) < MaxSize*6/10 {
		t.Errorf("the largest description has %d bytes, %v", len(b), err)
	}
}

// facts are what a vector says of a description, in the form of its header.
func facts(d *Description) string {
	var addresses, gateways, routes, servers []string
	for _, p := range d.Addresses {
		addresses = append(addresses, p.String())
	}
	for _, g := range d.Gateways {
		text := g.Address.String()
		if g.MAC != [6]byte{} {
			text += fmt.Sprintf("@%x", g.MAC)
		}
		gateways = append(gateways, text)
	}
	for _, r := range d.Routes {
		text := r.To.String()
		if r.Via.IsValid() {
			text += "@" + r.Via.String()
		}
		routes = append(routes, text)
	}
	for _, a := range d.NameServers {
		servers = append(servers, a.String())
	}
	return fmt.Sprintf("mtu: %d\naddresses: %s\ngateways: %s\nroutes: %s\nname-servers: %s\nndots: %d\nsearch: %s\n",
		d.MTU, strings.Join(addresses, " "), strings.Join(gateways, " "), strings.Join(routes, " "), strings.Join(servers, " "), d.Ndots, strings.Join(d.Search, " "))
}

func TestVectors(t *testing.T) {
	t.Parallel()
	if *update {
		writeVectors(t)
	}
	vectors.Walk(t, vectorDir, []string{"ok", "invalid"}, vectorFields, func(t *testing.T, v *vectors.Vector) {
		d, err := Unmarshal(v.Body)
		if v.Expect == "invalid" {
			if !errors.Is(err, ErrInvalid) || d != nil {
				t.Errorf("got %v, %v", d, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(facts(d)) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			if got := v.Get(name); got != value {
				t.Errorf("%s is %q, the vector says %q", name, value, got)
			}
		}
		if again, err := d.Marshal(); err != nil || !bytes.Equal(again, v.Body) {
			t.Errorf("re-encodes to other bytes: %v", err)
		}
	})
}

func writeVectors(t *testing.T) {
	for name, d := range map[string]*Description{"ok": full(), "ok-small": small(), "ok-routed": routed(), "ok-most": most()} {
		comment := map[string]string{"ok": "a pod's of two families", "ok-small": "an address and nothing else", "ok-routed": "gateway and name server are link-local", "ok-most": "the most of everything"}[name]
		vectors.Write(t, vectorDir, name, fmt.Sprintf("expect: ok\ncomment: %s\n%s", comment, facts(d)), d.encode(), false)
	}
	invalid := func(name, comment string, body []byte) {
		vectors.Write(t, vectorDir, strings.ReplaceAll(name, " ", "-"), "expect: invalid\ncomment: "+comment+"\n", body, false)
	}
	for name, spoil := range spoilers {
		if name == "search long" { // more than its length field can say
			continue
		}
		d := full()
		spoil(d)
		invalid(name, strings.TrimPrefix(d.Check().Error(), ErrInvalid.Error()+": "), d.encode())
	}
	b := full().encode()
	for name, c := range map[string]struct {
		comment string
		body    []byte
	}{
		"empty":                 {"nothing", nil},
		"header alone":          {"the length field agrees", resize(b[:HeaderSize])},
		"magic":                 {"another magic", edit(b, 7, '2')},
		"length":                {"the length field says a byte less", edit(b, 9, b[9]-1)},
		"too large":             {"a byte more than 4096; the length field agrees", resize(append(bytes.Clone(b), make([]byte, MaxSize+1-len(b))...))},
		"address size":          {"an address of 5 bytes", edit(b, 13, 5)},
		"bits large":            {"an IPv4 prefix of 33 bits", edit(b, 18, 33)},
		"no address in a place": {"an address of 0 bytes", edit(b, 13, 0)},
		"addresses many":        {"17 addresses", edit(b, 12, 17)},
		"truncated":             {"the last byte is missing; the length field agrees", resize(b[:len(b)-1])},
		"trailing":              {"a byte after the last field; the length field agrees", resize(append(bytes.Clone(b), 0))},
	} {
		invalid(name, c.comment, c.body)
	}
}

func edit(b []byte, at int, to byte) []byte {
	b = bytes.Clone(b)
	b[at] = to
	return b
}

// resize makes the length field say how long a description is.
func resize(b []byte) []byte {
	return edit(edit(b, 8, byte(len(b)>>8)), 9, byte(len(b)))
}

// What is accepted is in its one form, within its bounds, and stays the same.
func FuzzUnmarshal(f *testing.F) {
	for _, d := range []*Description{small(), full(), routed(), most()} {
		f.Add(d.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := slices.Clone(b)
		d, err := Unmarshal(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		again, err := d.Marshal()
		if err != nil || !bytes.Equal(again, before) {
			t.Fatalf("%+v re-encodes to %x, %v", d, again, err)
		}
		clear(b)
		if twice, err := Unmarshal(again); err != nil || !reflect.DeepEqual(twice, d) {
			t.Fatalf("shares memory: %+v, %v", d, err)
		}
	})
}
