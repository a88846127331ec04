package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/secexec/secexec/proto/network"
)

var mac = [macSize]byte{2, 0, 0, 1, 2, 3}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// said is a server's message with these options, in order.
func said(xid uint32, kind uint8, own string, options ...[]byte) []byte {
	b := make([]byte, bootpSize)
	b[0], b[1], b[2] = bootReply, linkEthernet, macSize
	binary.BigEndian.PutUint32(b[4:], xid)
	copy(b[16:], addr(own).AsSlice())
	copy(b[28:], mac[:])
	b = binary.BigEndian.AppendUint32(b, dhcpMagic)
	b = append(b, optType, 1, kind)
	for _, o := range options {
		b = append(b, o...)
	}
	return append(b, optEnd)
}

func option(code uint8, data ...byte) []byte { return append([]byte{code, byte(len(data))}, data...) }

// good are the options of a usual lease.
func good(seconds uint32) [][]byte {
	return [][]byte{
		option(optServer, 192, 0, 2, 1), option(optMask, 255, 255, 255, 0), option(optRouter, 192, 0, 2, 1),
		option(optDNS, 192, 0, 2, 2, 192, 0, 2, 3), option(optDomain, []byte("example.org")...), option(optMTU, 5, 120),
		option(optLease, binary.BigEndian.AppendUint32(nil, seconds)...),
	}
}

func TestLease(t *testing.T) {
	t.Parallel()
	m, err := parseMessage(said(7, dhcpAck, "192.0.2.77", good(3600)...), 7, mac)
	if err != nil {
		t.Fatal(err)
	}
	l := m.lease
	if m.kind != dhcpAck || l.Address != netip.MustParsePrefix("192.0.2.77/24") || l.Gateway != addr("192.0.2.1") || l.Server != addr("192.0.2.1") ||
		!slices.Equal(l.NameServers, []netip.Addr{addr("192.0.2.2"), addr("192.0.2.3")}) || l.Domain != "example.org" || l.MTU != 1400 ||
		l.T1 != 30*time.Minute || l.T2 != 3150*time.Second || l.End != time.Hour {
		t.Errorf("got %+v", l)
	}
}

// What a hostile server says is refused, or has no effect.
func TestHostileServers(t *testing.T) {
	t.Parallel()
	replace := func(with []byte) [][]byte {
		o := good(3600)
		for i := range o {
			if o[i][0] == with[0] {
				o[i] = with
				return o
			}
		}
		return append(o, with)
	}
	without := func(code byte) [][]byte {
		return slices.DeleteFunc(good(3600), func(o []byte) bool { return o[0] == code })
	}
	for name, c := range map[string]struct {
		own     string
		options [][]byte
	}{
		"loopback":             {"127.0.0.1", good(3600)},
		"any address":          {"0.0.0.0", good(3600)},
		"multicast":            {"224.0.0.1", good(3600)},
		"broadcast":            {"255.255.255.255", good(3600)},
		"network itself":       {"192.0.2.0", good(3600)},
		"network's broadcast":  {"192.0.2.255", good(3600)},
		"the server's own":     {"192.0.2.1", good(3600)},
		"no mask":              {"192.0.2.77", without(optMask)},
		"mask with a hole":     {"192.0.2.77", replace(option(optMask, 255, 0, 255, 0))},
		"mask of nothing":      {"192.0.2.77", replace(option(optMask, 0, 0, 0, 0))},
		"mask of 128.0.0.0":    {"192.0.2.77", replace(option(optMask, 128, 0, 0, 0))},
		"mask of 5 bytes":      {"192.0.2.77", replace(option(optMask, 255, 255, 255, 0, 0))},
		"no lease":             {"192.0.2.77", without(optLease)},
		"lease of 59 seconds":  {"192.0.2.77", good(59)},
		"lease of 2 bytes":     {"192.0.2.77", replace(option(optLease, 1, 0))},
		"no server":            {"192.0.2.77", without(optServer)},
		"server on loopback":   {"192.0.2.77", replace(option(optServer, 127, 0, 0, 1))},
		"option comes twice":   {"192.0.2.77", append(good(3600), option(optRouter, 192, 0, 2, 9))},
		"option that is cut":   {"192.0.2.77", append(good(3600), []byte{optDNS + 100, 200, 1})},
		"type comes twice":     {"192.0.2.77", append(good(3600), option(optType, dhcpAck))},
		"unknown type":         {"192.0.2.77", append([][]byte{}, option(optServer, 192, 0, 2, 1))},
		"option without a len": {"192.0.2.77", append(good(3600), []byte{200})},
	} {
		kind := uint8(dhcpOffer)
		if name == "unknown type" {
			kind = 99
		}
		b := said(7, kind, c.own, c.options...)
		if name == "option without a len" {
			b = b[:len(b)-1] // no end
		}
		if m, err := parseMessage(b, 7, mac); !errors.Is(err, ErrDHCP) {
			t.Errorf("%s: %+v %v", name, m, err)
		}
	}
	for name, c := range map[string]struct {
		option []byte
		ok     func(l *Lease) bool
	}{
		"router on loopback":     {option(optRouter, 127, 0, 0, 1), func(l *Lease) bool { return !l.Gateway.IsValid() }},
		"router of 3 bytes":      {option(optRouter, 127, 0, 0), func(l *Lease) bool { return !l.Gateway.IsValid() }},
		"router is the guest":    {option(optRouter, 192, 0, 2, 77), func(l *Lease) bool { return !l.Gateway.IsValid() }},
		"name server here":       {option(optDNS, 127, 0, 0, 53, 192, 0, 2, 3), func(l *Lease) bool { return len(l.NameServers) == 1 }},
		"many name servers":      {option(optDNS, bytes.Repeat([]byte{192, 0, 2, 3}, 63)...), func(l *Lease) bool { return len(l.NameServers) == maxListed }},
		"domain with a new line": {option(optDomain, []byte("a\nnameserver 192.0.2.66")...), func(l *Lease) bool { return l.Domain == "" }},
		"domain with a space":    {option(optDomain, []byte("a b")...), func(l *Lease) bool { return l.Domain == "" }},
		"tiny MTU":               {option(optMTU, 0, 68), func(l *Lease) bool { return l.MTU == 0 }},
		"huge MTU":               {option(optMTU, 255, 255), func(l *Lease) bool { return l.MTU == 0 }},
		"lease without an end":   {option(optLease, 255, 255, 255, 255), func(l *Lease) bool { return l.End == maxLease && l.T1 == maxLease/2 }},
		"T1 of 0":                {option(optT1, 0, 0, 0, 0), func(l *Lease) bool { return l.T1 == 30*time.Minute }},
		"T1 after the end":       {option(optT1, 0, 1, 0, 0), func(l *Lease) bool { return l.T1 == 30*time.Minute }},
		"routes":                 {option(121, 8, 10, 192, 0, 2, 9), func(l *Lease) bool { return l.Gateway == addr("192.0.2.1") }},
		"host name":              {option(12, []byte("evil")...), func(l *Lease) bool { return l.Domain == "example.org" }},
	} {
		m, err := parseMessage(said(7, dhcpOffer, "192.0.2.77", replace(c.option)...), 7, mac)
		if err != nil || !c.ok(&m.lease) {
			t.Errorf("%s: %+v %v", name, m, err)
		}
	}
	for name, spoil := range map[string]func(b []byte){
		"a request": func(b []byte) { b[0] = bootRequest }, "another xid": func(b []byte) { b[7]++ }, "another MAC": func(b []byte) { b[33]++ },
		"other hardware": func(b []byte) { b[1]++ }, "longer MAC": func(b []byte) { b[2] = 16 }, "other magic": func(b []byte) { b[bootpSize]++ },
	} {
		b := said(7, dhcpAck, "192.0.2.77", good(3600)...)
		spoil(b)
		if _, err := parseMessage(b, 7, mac); !errors.Is(err, ErrDHCP) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGoldenQuery(t *testing.T) {
	t.Parallel()
	q := query{kind: dhcpRequest, xid: 0x01020304, seconds: 5, mac: mac, requested: addr("192.0.2.77"), server: addr("192.0.2.1")}
	golden(t, "request.frame", frame(q.marshal()))
}

func TestFrames(t *testing.T) {
	t.Parallel()
	// A frame to a client is one from it with ports exchanged; the checksum
	// does not notice.
	packet := func(message []byte) []byte {
		b := frame(message)
		binary.BigEndian.PutUint16(b[ipSize:], serverPort)
		binary.BigEndian.PutUint16(b[ipSize+2:], clientPort)
		return b
	}
	for _, size := range []int{0, 1, 2, 299, 300} {
		message := bytes.Repeat([]byte{0xa5}, size)
		got, err := unframe(append(packet(message), "Ethernet's padding"...), false)
		if err != nil || !bytes.Equal(got, message) {
			t.Errorf("%d bytes: got %x %v", size, got, err)
		}
	}
	resum := func(b []byte) {
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], checksum(0, b[:ipSize]))
	}
	for name, spoil := range map[string]func(b []byte){
		"version 6": func(b []byte) { b[0] = 6<<4 | 5; resum(b) }, "short head": func(b []byte) { b[0] = 4<<4 | 4; resum(b) }, "long head": func(b []byte) { b[0] = 4<<4 | 15 },
		"fragment": func(b []byte) { b[7] = 1; resum(b) }, "more fragments": func(b []byte) { b[6] = 0x20; resum(b) }, "TCP": func(b []byte) { b[9] = 6; resum(b) },
		"too long": func(b []byte) { b[2] = 0x10; resum(b) }, "too short": func(b []byte) { b[2], b[3] = 0, ipSize; resum(b) }, "bad IP sum": func(b []byte) { b[10]++ },
		"other port": func(b []byte) { b[ipSize+3]++ }, "UDP too long": func(b []byte) { b[ipSize+4] = 9 }, "UDP too short": func(b []byte) { b[ipSize+4], b[ipSize+5] = 0, 7 },
		"bad UDP sum": func(b []byte) { b[ipSize+6] ^= 1 }, "changed byte": func(b []byte) { b[len(b)-1] ^= 1 }, "changed source": func(b []byte) { b[12]++; resum(b) },
	} {
		b := packet(bytes.Repeat([]byte{0xa5}, 300))
		spoil(b)
		if _, err := unframe(b, false); !errors.Is(err, ErrDHCP) {
			t.Errorf("%s: %v", name, err)
		}
	}
	left := packet([]byte("sum left to hardware"))
	left[ipSize+6] ^= 1
	if _, err := unframe(left, true); err != nil {
		t.Errorf("checksum that the kernel says is not there yet: %v", err)
	}
	left[ipSize+6], left[ipSize+7] = 0, 0
	if _, err := unframe(left, false); err != nil {
		t.Errorf("no checksum: %v", err)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(said(7, dhcpOffer, "192.0.2.77", good(3600)...))
	f.Add(said(7, dhcpNak, "0.0.0.0", option(optServer, 192, 0, 2, 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b, 7, mac)
		if err != nil {
			if !errors.Is(err, ErrDHCP) {
				t.Errorf("unknown error %v", err)
			}
			return
		}
		l := m.lease
		if m.kind == dhcpNak {
			return
		}
		if !machine(l.Address.Addr()) || l.Address.Bits() < 8 || l.T1 < minLease/2 || l.T1 >= l.T2 || l.T2 >= l.End || l.End > maxLease ||
			l.MTU != 0 && (l.MTU < network.MinMTU || l.MTU > network.MaxMTU) || len(l.NameServers) > maxListed || l.Gateway.IsValid() && !machine(l.Gateway) {
			t.Errorf("lease out of bounds: %+v", l)
		}
	})
}

func FuzzFrame(f *testing.F) {
	b := frame(said(7, dhcpOffer, "192.0.2.77", good(3600)...))
	binary.BigEndian.PutUint16(b[ipSize:], serverPort)
	binary.BigEndian.PutUint16(b[ipSize+2:], clientPort)
	f.Add(b, false)
	f.Fuzz(func(t *testing.T, b []byte, unsummed bool) {
		message, err := unframe(b, unsummed)
		if (err != nil) != errors.Is(err, ErrDHCP) || len(message) > max(0, len(b)-ipSize-udpSize) {
			t.Errorf("%d bytes of %d, %v", len(message), len(b), err)
		}
	})
}
