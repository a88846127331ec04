package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Ports and sizes of what is below DHCP while the guest has no address.
const (
	serverPort = 67
	clientPort = 68
	ipSize     = 20
	udpSize    = 8
	protoUDP   = 17
	maxFrame   = 1500
)

// frame puts a DHCP message into UDP in IPv4, from nobody to everybody.
func frame(message []byte) []byte {
	b := make([]byte, ipSize+udpSize, ipSize+udpSize+len(message))
	b = append(b, message...)
	b[0] = 4<<4 | ipSize/4
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	b[8], b[9] = 64, protoUDP
	copy(b[16:], []byte{255, 255, 255, 255})
	binary.BigEndian.PutUint16(b[10:], checksum(0, b[:ipSize]))
	udp := b[ipSize:]
	binary.BigEndian.PutUint16(udp[0:], clientPort)
	binary.BigEndian.PutUint16(udp[2:], serverPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	sum := checksum(pseudo(b), udp)
	if sum == 0 {
		sum = 0xffff // RFC 768: 0 would mean none
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	return b
}

// unframe takes a DHCP message out of an IPv4 packet. A packet from the host's
// own stack may come with its UDP checksum left to hardware that there is not:
// then the kernel says unsummed.
func unframe(b []byte, unsummed bool) ([]byte, error) {
	if len(b) < ipSize || b[0]>>4 != 4 {
		return nil, fmt.Errorf("%w: no IPv4 packet", ErrDHCP)
	}
	head, size := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case head < ipSize || size < head+udpSize || size > len(b) || size > maxFrame:
		return nil, fmt.Errorf("%w: IPv4 packet of %d bytes in %d", ErrDHCP, size, len(b))
	case binary.BigEndian.Uint16(b[6:])&0x3fff != 0:
		return nil, fmt.Errorf("%w: a fragment", ErrDHCP)
	case b[9] != protoUDP || checksum(0, b[:head]) != 0:
		return nil, fmt.Errorf("%w: no sound UDP packet", ErrDHCP)
	}
	udp := b[head:size]
	length := int(binary.BigEndian.Uint16(udp[4:]))
	switch {
	case binary.BigEndian.Uint16(udp) != serverPort || binary.BigEndian.Uint16(udp[2:]) != clientPort:
		return nil, fmt.Errorf("%w: other ports", ErrDHCP)
	case length < udpSize || length > len(udp):
		return nil, fmt.Errorf("%w: UDP packet of %d bytes in %d", ErrDHCP, length, len(udp))
	}
	udp = udp[:length]
	if binary.BigEndian.Uint16(udp[6:]) != 0 && !unsummed && checksum(pseudo(b), udp) != 0 {
		return nil, fmt.Errorf("%w: bad checksum", ErrDHCP)
	}
	return udp[udpSize:], nil
}

// pseudo sums a packet's pseudo header (RFC 768), but for UDP's length, which
// checksum adds as that of its bytes.
func pseudo(b []byte) uint32 {
	sum := uint32(protoUDP)
	for i := 12; i < ipSize; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return sum
}

// checksum is the Internet's (RFC 1071). With a pseudo header's sum it covers
// the length, too.
func checksum(sum uint32, b []byte) uint16 {
	if sum != 0 {
		sum += uint32(len(b))
	}
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// everybody is the limited broadcast address.
var everybody = netip.AddrFrom4([4]byte{255, 255, 255, 255})
