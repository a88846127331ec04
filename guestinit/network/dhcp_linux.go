package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// answers is a filter for packet sockets (linux/filter.h): whole UDP packets to
// the client's port, of IPv4 with or without options. All others would wake
// guestinit for nothing.
var answers = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protoUDP, Jf: 6},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 6},
	{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 0x1fff, Jt: 4},
	{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 2},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: clientPort, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: maxFrame},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// socket is the way to a DHCP server, open only while an answer may come.
type socket struct {
	fd    int
	raw   bool // packets, for a guest without an address
	index int
}

func openRaw(index uint32) (*socket, error) {
	var raw [2]byte
	binary.BigEndian.PutUint16(raw[:], unix.ETH_P_IP)
	wire := binary.NativeEndian.Uint16(raw[:]) // protocols are in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	filter := unix.SockFprog{Len: uint16(len(answers)), Filter: &answers[0]}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &filter),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: wire, Ifindex: int(index)}))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare packet socket: %w", err)
	}
	return &socket{fd: fd, raw: true, index: int(index)}, nil
}

// openUDP is for a guest that has an address.
func openUDP(name string, own netip.Addr) (*socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open UDP socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: clientPort, Addr: own.As4()}))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare UDP socket: %w", err)
	}
	return &socket{fd: fd}, nil
}

func (s *socket) close() { unix.Close(s.fd) }

func (s *socket) send(message []byte, to netip.Addr) error {
	if !s.raw {
		return unix.Sendto(s.fd, message, 0, &unix.SockaddrInet4{Port: serverPort, Addr: to.As4()})
	}
	var proto [2]byte
	binary.BigEndian.PutUint16(proto[:], unix.ETH_P_IP)
	return unix.Sendto(s.fd, frame(message), 0, &unix.SockaddrLinklayer{
		Protocol: binary.NativeEndian.Uint16(proto[:]), Ifindex: s.index, Halen: macSize,
		Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	})
}

// receive waits for a DHCP message, at most for this long. None is nil.
func (s *socket) receive(wait time.Duration) []byte {
	limit := unix.NsecToTimespec(int64(max(wait, 0)))
	if n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, &limit, nil); n < 1 || err != nil {
		return nil
	}
	b := make([]byte, maxFrame)
	control := make([]byte, unix.CmsgSpace(int(unsafe.Sizeof(unix.TpacketAuxdata{}))))
	n, controls, _, _, err := unix.Recvmsg(s.fd, b, control, 0)
	if err != nil {
		return nil
	}
	if !s.raw {
		return b[:n]
	}
	message, err := unframe(b[:n], unsummed(control[:controls]))
	if err != nil {
		return nil
	}
	return message
}

// unsummed tells whether the kernel says that a packet's checksum was left to
// hardware (packet(7): PACKET_AUXDATA).
func unsummed(control []byte) bool {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return false
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 4 {
			return binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_CSUMNOTREADY != 0
		}
	}
	return false
}

// random is for numbers and spreads, of which nothing secret depends.
func random() uint32 {
	var b [4]byte
	_, _ = unix.Getrandom(b[:], unix.GRND_NONBLOCK)
	return binary.NativeEndian.Uint32(b[:])
}

// slice is the longest wait in one piece while an answer may come, so that an
// end of the context is seen.
const slice = time.Second

// wait waits for what the client does next: a time that comes or an answer. It
// may return with nothing to do.
func (i *Interface) wait(ctx context.Context) action {
	now := time.Since(i.start)
	left := i.client.wake - now
	switch {
	case left <= 0:
		return i.client.tick(now)
	case i.client.listens() && i.socket != nil:
		if raw := i.socket.receive(min(left, slice)); raw != nil {
			return i.client.receive(time.Since(i.start), raw)
		}
	default: // no socket is open and no thread waits
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return action{}
}

// say sends a message. What can't be sent is tried again when it is time.
func (i *Interface) say(a action) {
	if a.send == nil {
		return
	}
	if i.socket == nil {
		var err error
		if i.client.state >= bound {
			i.socket, err = openUDP(i.name, i.client.lease.Address.Addr())
		} else {
			i.socket, err = openRaw(i.index)
		}
		if err != nil {
			i.socket = nil
			return
		}
	}
	_ = i.socket.send(a.send, a.to)
}

func (i *Interface) hangUp() {
	if i.socket != nil {
		i.socket.close()
		i.socket = nil
	}
}
