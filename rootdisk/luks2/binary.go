package luks2

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
)

// binaryHeader is the binary part of one copy. All its numbers are big-endian.
type binaryHeader struct {
	Second    bool   // the second copy, which has another magic
	Size      uint64 // of binary part and JSON area
	Sequence  uint64 // the higher of two copies is the newer
	Label     string
	Salt      [64]byte
	UUID      string
	Subsystem string
	Offset    uint64 // from the disk's start
}

// Offsets in the binary part.
const (
	atVersion, atSize, atSequence, atLabel, atAlg, atSalt = 6, 8, 16, 24, 72, 104
	atUUID, atSubsystem, atOffset, atPadding, atChecksum  = 168, 208, 256, 264, 448
)

const magic1, magic2 = "LUKS\xba\xbe", "SKUL\xba\xbe"

// encode returns binary part and JSON area with their checksum.
func (h *binaryHeader) encode(text []byte) []byte {
	be := binary.BigEndian
	b := make([]byte, h.Size)
	copy(b, magic1)
	if h.Second {
		copy(b, magic2)
	}
	be.PutUint16(b[atVersion:], 2)
	be.PutUint64(b[atSize:], h.Size)
	be.PutUint64(b[atSequence:], h.Sequence)
	copy(b[atLabel:atAlg], h.Label)
	copy(b[atAlg:], "sha256")
	copy(b[atSalt:], h.Salt[:])
	copy(b[atUUID:], h.UUID)
	copy(b[atSubsystem:atOffset], h.Subsystem)
	be.PutUint64(b[atOffset:], h.Offset)
	copy(b[binarySize:], text)
	sum := sha256.Sum256(b)
	copy(b[atChecksum:], sum[:])
	return b
}

// sizeField reads the size of a copy from its binary part, which has binarySize
// bytes.
func sizeField(b []byte) (uint64, error) {
	size := binary.BigEndian.Uint64(b[atSize:])
	switch magic := string(b[:atVersion]); {
	case magic != magic1 && magic != magic2:
		return 0, fmt.Errorf("%w: it does not start with LUKS2's magic", ErrHeader)
	case binary.BigEndian.Uint16(b[atVersion:]) != 2:
		return 0, fmt.Errorf("%w: it is LUKS version %d", ErrHeader, binary.BigEndian.Uint16(b[atVersion:]))
	case size < headerSize || size > maxHeaderSize || size&(size-1) != 0:
		return 0, fmt.Errorf("%w: its size field says %d", ErrHeader, size)
	}
	return size, nil
}

// parseBinary parses one copy of a header, as long as its size field says. What
// it accepts, encode gives back to the byte.
func parseBinary(b []byte) (h *binaryHeader, text []byte, err error) {
	size, err := sizeField(b[:binarySize])
	if err != nil {
		return nil, nil, err
	}
	be := binary.BigEndian
	h = &binaryHeader{
		Second: string(b[:atVersion]) == magic2, Size: size, Sequence: be.Uint64(b[atSequence:]), Offset: be.Uint64(b[atOffset:]),
		Salt: [64]byte(b[atSalt:atUUID]),
	}
	var alg string
	for _, field := range []struct {
		to *string
		b  []byte
	}{{&h.Label, b[atLabel:atAlg]}, {&alg, b[atAlg:atSalt]}, {&h.UUID, b[atUUID:atSubsystem]}, {&h.Subsystem, b[atSubsystem:atOffset]}} {
		s, rest, _ := strings.Cut(string(field.b), "\x00")
		if !printable(s) || strings.Trim(rest, "\x00") != "" {
			return nil, nil, fmt.Errorf("%w: a text in it is no padded ASCII", ErrHeader)
		}
		*field.to = s
	}
	if alg != "sha256" {
		return nil, nil, fmt.Errorf("%w: its checksum is %q, not sha256", ErrHeader, alg)
	}
	text = bytes.TrimRight(b[binarySize:], "\x00")
	if !bytes.Equal(h.encode(text), b) {
		return nil, nil, fmt.Errorf("%w: its checksum is wrong", ErrHeader)
	}
	return h, text, nil
}
