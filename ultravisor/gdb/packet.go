package gdb

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// maxPacket bounds a packet's text as it travels, in bytes: a stub that never
// ends a packet must not fill memory. QEMU's own limit is 4096.
const maxPacket = 64 << 10

// special are the bytes that travel only escaped: } and the byte XOR 0x20.
// An asterisk would mean run-length encoding, which QEMU does not send.
const special = "#$}*"

// encode frames a packet: $ text # checksum.
func encode(text string) []byte {
	b := append(make([]byte, 0, len(text)+4), '$')
	for i := range len(text) {
		if strings.IndexByte(special, text[i]) >= 0 {
			b = append(b, '}', text[i]^0x20)
			continue
		}
		b = append(b, text[i])
	}
	return fmt.Appendf(b, "#%02x", sum(b[1:]))
}

// sum is the packet's checksum: the sum of its bytes as they travel, modulo 256.
func sum(travelling []byte) (s byte) {
	for _, b := range travelling {
		s += b
	}
	return s
}

// readPacket reads one packet in the only form that encode gives it: no
// run-length encoding, nothing escaped that need not be, the checksum's digits
// in lower case.
func readPacket(r *bufio.Reader) (string, error) {
	start, err := r.ReadByte()
	if err != nil {
		return "", err
	}
	if start != '$' {
		return "", fmt.Errorf("%w: packet starts with %q", ErrProtocol, start)
	}
	var raw []byte
	var text strings.Builder
	escaped := false
	for {
		b, err := r.ReadByte()
		if err != nil {
			return "", inside(err)
		}
		if b == '#' { // always the end: inside it travels escaped
			break
		}
		if len(raw) == maxPacket {
			return "", fmt.Errorf("%w: packet of more than %d bytes", ErrProtocol, maxPacket)
		}
		raw = append(raw, b)
		switch {
		case escaped:
			b ^= 0x20
			if strings.IndexByte(special, b) < 0 {
				return "", fmt.Errorf("%w: %q is escaped", ErrProtocol, b)
			}
			escaped = false
		case b == '}':
			escaped = true
			continue
		case strings.IndexByte(special, b) >= 0:
			return "", fmt.Errorf("%w: %q inside a packet", ErrProtocol, b)
		}
		text.WriteByte(b)
	}
	if escaped {
		return "", fmt.Errorf("%w: packet ends in an escape", ErrProtocol)
	}
	var check [2]byte
	if _, err := io.ReadFull(r, check[:]); err != nil {
		return "", inside(err)
	}
	if want := fmt.Sprintf("%02x", sum(raw)); string(check[:]) != want {
		return "", fmt.Errorf("%w: checksum %q, wants %q", ErrProtocol, check[:], want)
	}
	return text.String(), nil
}

// inside says that a packet was cut short.
func inside(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
