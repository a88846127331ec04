package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/network"
	"github.com/secexec/secexec/sealed"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// pod is what a host says of a pod's network.
func pod() *network.Description {
	return &network.Description{
		MTU: 1450, Addresses: []netip.Prefix{prefix("192.0.2.7/32"), prefix("2001:db8::7/64")},
		Gateways:    []network.Gateway{{Address: addr("169.254.1.1"), MAC: [6]byte{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}}, {Address: addr("fe80::1")}},
		Routes:      []network.Route{{To: prefix("10.96.0.0/12"), Via: addr("192.0.2.254")}, {To: prefix("10.0.0.0/24")}, {To: prefix("2001:db8:1::/48"), Via: addr("fe80::2")}},
		NameServers: []netip.Addr{addr("192.0.2.53"), addr("192.0.2.54")}, Ndots: 5, Search: []string{"svc.cluster.local", "cluster.local"},
	}
}

func encoded(t *testing.T, d *network.Description) []byte {
	t.Helper()
	b, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is sealed counts first.
func TestMerge(t *testing.T) {
	t.Parallel()
	d := pod()
	for name, c := range map[string]struct {
		plan, want sealed.Network
		ways       described
	}{
		"nothing sealed": {sealed.Network{Source: sealed.Host}, sealed.Network{
			Addresses: d.Addresses, Gateways: []netip.Addr{addr("169.254.1.1"), addr("fe80::1")}, MTU: 1450, NameServers: d.NameServers, Search: d.Search,
		}, described{d.Gateways, d.Routes}},
		"all sealed": {
			sealed.Network{Source: sealed.Host, Addresses: []netip.Prefix{prefix("10.0.0.1/8")}, Gateways: []netip.Addr{addr("10.0.0.2")}, MTU: 1300, NameServers: []netip.Addr{addr("10.0.0.3")}, Search: []string{"example.org"}},
			sealed.Network{
				Addresses: []netip.Prefix{prefix("10.0.0.1/8"), d.Addresses[0], d.Addresses[1]}, Gateways: []netip.Addr{addr("10.0.0.2"), addr("fe80::1")}, MTU: 1300,
				NameServers: []netip.Addr{addr("10.0.0.3"), d.NameServers[0], d.NameServers[1]}, Search: []string{"example.org"},
			},
			described{d.Gateways[1:], d.Routes[2:]},
		},
	} {
		before := c.plan
		if got, ways := merge(&c.plan, d); !reflect.DeepEqual(*got, c.want) || !reflect.DeepEqual(ways, c.ways) || !reflect.DeepEqual(before, c.plan) {
			t.Errorf("%s: %+v, %+v, wants %+v, %+v", name, *got, ways, c.want, c.ways)
		}
	}
}

// What hosts do with the port, and what becomes of it.
func TestHostileHosts(t *testing.T) {
	t.Parallel()
	good := encoded(t, pod())
	spoiled := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	endless := func(first []byte) func(w *os.File) {
		return func(w *os.File) {
			for _, err := w.Write(first); err == nil; _, err = w.Write(make([]byte, 4096)) {
			}
		}
	}
	once := func(b []byte) func(w *os.File) { return func(w *os.File) { _, _ = w.Write(b) } }
	for name, c := range map[string]struct {
		host func(w *os.File)
		shut bool // the host hangs up when it has done
		want error
	}{
		"at once":            {once(good), false, nil},
		"and hangs up":       {once(good), true, nil},
		"byte by byte, late": {func(w *os.File) { drip(w, good) }, false, nil},
		"and floods":         {endless(good), false, nil},
		"twice":              {once(append(bytes.Clone(good), good...)), false, nil},
		"nobody":             {nil, false, ErrNoDescription},
		"silence":            {once(nil), false, ErrNoDescription},
		"closed":             {once(nil), true, ErrNoDescription},
		"cut off":            {once(good[:len(good)-1]), true, ErrNoDescription},
		"cut off in header":  {once(good[:5]), false, ErrNoDescription},
		"zeros":              {endless(nil), false, ErrDescription},
		"garbage":            {endless([]byte("GET / HTTP/1.1\r\n\r\n")), false, ErrDescription},
		"oversized":          {endless(spoiled(8, 0xff)), false, ErrDescription},
		"too short":          {once(spoiled(9, byte(len(good)-1))), false, ErrDescription},
		"no size":            {once(spoiled(9, 0)), false, ErrDescription},
		"loopback":           {once(spoiled(14, 127)), false, ErrDescription},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fds := make([]int, 2)
			if err := unix.Pipe2(fds, unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
				t.Fatal(err)
			}
			w := os.NewFile(uintptr(fds[1]), "host")
			done := make(chan struct{})
			if c.host == nil {
				unix.Close(fds[0])
				close(done)
			} else {
				go func() {
					defer close(done)
					c.host(w)
					if c.shut {
						w.Close()
					}
				}()
			}
			limit := 30 * time.Second
			if errors.Is(c.want, ErrNoDescription) {
				limit = 200 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			looks := 0
			d, err := readDescription(ctx, func() (int, error) {
				if looks++; looks < 3 || c.host == nil { // a port may appear late
					return -1, errors.New("no port")
				}
				return fds[0], nil
			})
			w.Close()
			<-done
			if !errors.Is(err, c.want) || (d == nil) != (err != nil) || d != nil && !reflect.DeepEqual(d, pod()) {
				t.Errorf("got %+v, %v; wants %v", d, err, c.want)
			}
		})
	}
}

// hostOrder is an address as /proc/net/route has it.
func hostOrder(s string) uint32 {
	raw := addr(s).As4()
	return binary.NativeEndian.Uint32(raw[:])
}

func drip(w *os.File, b []byte) {
	for i := range b {
		_, _ = w.Write(b[i : i+1])
		time.Sleep(time.Millisecond)
	}
}

// The description is put to work.
func testHost(t *testing.T) {
	tap(t, "tap0")
	fds := make([]int, 2)
	if err := unix.Pipe2(fds, unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	if _, err := unix.Write(fds[1], encoded(t, pod())); err != nil {
		t.Fatal(err)
	}
	i := guest(t, &sealed.Network{Source: sealed.Host})
	i.port = func() (int, error) { return fds[0], nil }
	i, err := upWithin(t, i, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	has(t, "interface", addresses(t, "tap0"), "192.0.2.7/32 2001:db8::7/64 mtu 1450")
	has(t, "default route", defaults(t), "tap0 169.254.1.1")
	if routes := text(t, "/proc/net/ipv6_route"); !strings.Contains(routes, strings.Repeat("0", 32)+" 00 "+strings.Repeat("0", 32)+" 00 fe80"+strings.Repeat("0", 27)+"1 ") {
		t.Errorf("no IPv6 default route:\n%s", routes)
	}
	if arp := strings.Join(strings.Fields(text(t, "/proc/net/arp")), " "); !strings.Contains(arp, "169.254.1.1 0x1 0x6 ee:ee:ee:ee:ee:ee") {
		t.Errorf("the gateway's hardware address is not set: %s", arp)
	}
	routes := text(t, "/proc/net/route")
	for _, want := range []string{fmt.Sprintf("tap0\t%08X\t%08X", hostOrder("10.96.0.0"), hostOrder("192.0.2.254")), fmt.Sprintf("tap0\t%08X\t00000000", hostOrder("10.0.0.0"))} {
		if !strings.Contains(routes, want) {
			t.Errorf("no route %q:\n%s", want, routes)
		}
	}
	if routes := text(t, "/proc/net/ipv6_route"); !strings.Contains(routes, "20010db8000100000000000000000000 30 ") {
		t.Errorf("no IPv6 route:\n%s", routes)
	}
	has(t, "accept_ra", sysctl(t, "ipv6/conf/tap0/accept_ra"), "0")
	has(t, "resolv.conf", text(t, i.root+"/etc/resolv.conf"), "nameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch svc.cluster.local cluster.local\noptions ndots:5\n")
	if hosts := text(t, i.root+"/etc/hosts"); !strings.Contains(hosts, "192.0.2.7\tguest.example.org guest\n") {
		t.Errorf("hosts is %q", hosts)
	}
	i.Keep(t.Context()) // has nothing to keep
}
