package network

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"testing"
)

var update = flag.Bool("update", false, "rewrite golden files")

var orders = map[string]binary.ByteOrder{"big": binary.BigEndian, "little": binary.LittleEndian}

func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	path, got := "testdata/"+name+".hex", hex.Dump(b)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != got {
		t.Errorf("differs from %s: %v\n%s", path, err, got)
	}
}

func TestGoldenRequests(t *testing.T) {
	t.Parallel()
	for name, order := range orders {
		var b []byte
		for _, m := range [][]byte{
			listLinks(order, 1),
			raiseLink(order, 2, 3, 0),
			raiseLink(order, 3, 3, 1400),
			changeAddress(order, 4, 3, netip.MustParsePrefix("192.0.2.7/24"), true),
			changeAddress(order, 5, 3, netip.MustParsePrefix("2001:db8::7/64"), true),
			changeAddress(order, 6, 3, netip.MustParsePrefix("192.0.2.7/24"), false),
			addRoute(order, 7, 3, all(addr("192.0.2.1")), addr("192.0.2.1"), protoDHCP),
			addRoute(order, 8, 3, all(addr("fe80::1")), addr("fe80::1"), protoBoot),
			setNeighbour(order, 9, 3, netip.MustParseAddr("169.254.1.1"), [macSize]byte{2, 0, 0, 1, 2, 3}),
			addRoute(order, 11, 3, prefix("10.96.0.0/12"), addr("192.0.2.254"), protoBoot),
			addRoute(order, 12, 3, prefix("2001:db8:1::/48"), netip.Addr{}, protoBoot),
			setNeighbour(order, 10, 3, netip.MustParseAddr("fe80::1"), [macSize]byte{2, 0, 0, 1, 2, 3}),
		} {
			b = append(b, m...)
		}
		golden(t, "requests."+name+"-endian", b)
	}
}

// answer is what a kernel says of lo, a device and a tap.
func answer(order binary.ByteOrder) []byte {
	entry := func(index, flags uint32, hardware uint16, name string, mac []byte, kind string) []byte {
		r := newRequest(order, rtmNewLink, 0, 7)
		r.u8(0, 0).u16(hardware).u32(index).u32(flags).u32(0)
		r.attribute(iflaName, append([]byte(name), 0)).attribute(iflaAddress, mac).attribute32(iflaMTU, 1500)
		if kind != "" {
			nested := &request{order: order}
			r.attribute(iflaLinkInfo|0x8000, nested.attribute(infoKind, append([]byte(kind), 0)).b)
		}
		return r.bytes()
	}
	b := entry(1, linkUp|linkLoopback, 772, "lo", make([]byte, macSize), "")
	b = append(b, entry(2, linkUp|linkLowerUp, linkEthernet, "eth0", []byte{2, 0, 0, 1, 2, 3}, "")...)
	b = append(b, entry(3, 0, linkEthernet, "tap0", []byte{2, 0, 0, 9, 9, 9}, "tun")...)
	done := newRequest(order, nlmsgDone, 0, 7)
	return append(b, done.u32(0).bytes()...)
}

func TestGoldenReply(t *testing.T) {
	t.Parallel()
	for name, order := range orders {
		b := answer(order)
		golden(t, "reply."+name+"-endian", b)
		got, err := parseReply(order, b, 7)
		want := reply{done: true, links: []link{
			{index: 1, hardware: 772, flags: linkUp | linkLoopback, name: "lo", mac: make([]byte, macSize)},
			{index: 2, hardware: linkEthernet, flags: linkUp | linkLowerUp, name: "eth0", mac: []byte{2, 0, 0, 1, 2, 3}},
			{index: 3, hardware: linkEthernet, name: "tap0", mac: []byte{2, 0, 0, 9, 9, 9}, software: true},
		}}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s endian: got %+v %v", name, got, err)
		}
		if other, err := parseReply(order, b, 8); err != nil || other.done || other.links != nil {
			t.Errorf("%s endian: another request's answer counts: %+v %v", name, other, err)
		}
		refusal := newRequest(order, nlmsgError, 0, 9).u32(^uint32(16)).bytes() // -17
		if got, err := parseReply(order, refusal, 9); err != nil || got.errno != 17 || !got.done {
			t.Errorf("%s endian: refusal is %+v %v", name, got, err)
		}
	}
}

func TestBrokenReplies(t *testing.T) {
	t.Parallel()
	order := binary.BigEndian
	for cut := range len(answer(order)) {
		b := answer(order)[:cut]
		r, err := parseReply(order, b, 7)
		if err == nil && r.done {
			t.Errorf("an answer cut at %d is whole", cut)
		}
		if err != nil && !errors.Is(err, ErrNetlink) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	for name, spoil := range map[string]func([]byte){
		"short message": func(b []byte) { order.PutUint32(b, 15) }, "long message": func(b []byte) { order.PutUint32(b, 1<<30) },
		"short attribute": func(b []byte) { order.PutUint16(b[32:], 3) }, "long attribute": func(b []byte) { order.PutUint16(b[32:], 0xffff) },
		"tiny interface": func(b []byte) { order.PutUint32(b, 20) },
	} {
		b := answer(order)
		spoil(b)
		if _, err := parseReply(order, b, 7); !errors.Is(err, ErrNetlink) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReply(f *testing.F) {
	for _, order := range orders {
		f.Add(answer(order), true)
		f.Add(answer(order), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, big bool) {
		order := orders["little"]
		if big {
			order = orders["big"]
		}
		r, err := parseReply(order, b, 7)
		if err != nil && (!errors.Is(err, ErrNetlink) || r.done || r.links != nil) {
			t.Errorf("%+v with %v", r, err)
		}
		if len(r.links)*(netlinkHeader+linkHeader) > len(b) {
			t.Errorf("%d interfaces in %d bytes", len(r.links), len(b))
		}
	})
}
