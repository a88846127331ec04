package diskimage

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Geometry of an ECKD DASD with blocks of 4096 bytes, the only one that Linux
// formats: a track has 12 of them, a cylinder 15 tracks.
const (
	dasdBlock  = 4096
	dasdTrack  = 12
	dasdHeads  = 15
	maxDASD    = 3 // partitions that fdasd makes
	maxVTOC    = dasdTrack * dasdHeads
	ebcdicVOL1 = "\xe5\xd6\xd3\xf1"
	ebcdicLNX1 = "\xd3\xd5\xe7\xf1"
)

// dasd reads the partitions of a DASD in the compatible disk layout (its VTOC,
// as fdasd writes it) or the Linux disk layout (one partition); nil if it is
// neither. Layout: Linux block/partitions/ibm.c, include/uapi/asm/vtoc.h. All
// numbers are big-endian.
func dasd(r io.ReaderAt, size int64) (*Table, error) {
	b := make([]byte, dasdBlock)
	if n, _ := r.ReadAt(b, 2*dasdBlock); n < len(b) {
		return nil, nil
	}
	switch {
	case string(b[4:8]) == ebcdicVOL1 && string(b[:4]) == ebcdicVOL1:
		return vtoc(r, size, b)
	case string(b[:4]) == ebcdicLNX1:
		p := Partition{Number: 1}
		if err := p.place(3, uint64(size/dasdBlock)-1, dasdBlock, size); err != nil {
			return nil, err
		}
		return &Table{"dasd", []Partition{p}}, nil
	}
	return nil, nil
}

func vtoc(r io.ReaderAt, size int64, label []byte) (*Table, error) {
	t := &Table{Scheme: "dasd"}
	// The label's 12th byte starts the VTOC's address: cylinder, head, block.
	at := dasdTrackOf(label[15:])*dasdTrack + uint64(label[19])
	for range maxVTOC {
		if at >= uint64(size/dasdBlock) {
			return nil, fmt.Errorf("%w: VTOC at block %d", ErrImage, at)
		}
		b := make([]byte, 140) // key and data of one record
		if n, err := r.ReadAt(b, int64(at)*dasdBlock); n < len(b) {
			return nil, fmt.Errorf("%w: VTOC: %w", ErrImage, err)
		}
		at++
		switch b[44] { // format of the record, an EBCDIC digit
		case 0xf1, 0xf8: // of a data set, which is a partition
			p := Partition{Number: len(t.Partitions) + 1}
			first := dasdTrackOf(b[107:]) * dasdTrack
			last := dasdTrackOf(b[111:])*dasdTrack + dasdTrack - 1
			if err := p.place(first, last, dasdBlock, size); err != nil {
				return nil, err
			}
			if t.Partitions = append(t.Partitions, p); len(t.Partitions) > maxDASD {
				return nil, fmt.Errorf("%w: VTOC with more than %d partitions", ErrImage, maxDASD)
			}
		case 0xf4, 0xf5, 0xf7, 0xf9: // of the VTOC itself, free space, volumes over 65520 cylinders
		default:
			return t, nil
		}
	}
	return t, nil
}

// dasdTrackOf reads a track's address: 16 bits of cylinder, and 16 whose upper
// 12 are more of the cylinder and whose lower 4 are the head.
func dasdTrackOf(b []byte) uint64 {
	be := binary.BigEndian
	head := uint64(be.Uint16(b[2:]))
	return (head>>4<<16|uint64(be.Uint16(b)))*dasdHeads + head&15
}
