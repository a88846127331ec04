package ultravisor

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/secexec/secexec/seimage"
)

// ErrStage3a says that the plain text of the image holds no boot loader of the
// kind that asks an ultravisor.
var ErrStage3a = errors.New("no stage3a found in guest memory")

// maxTraps bounds the instructions that one stage3a can make us stop at; each
// costs some exchanges with QEMU. Ours has 3.
const maxTraps = 64

// maxHeaderAddr bounds the search for the SE header behind stage3a, in bytes.
const maxHeaderAddr = 1 << 20

// instruction is the first 4 bytes of an s390x instruction.
type instruction uint32

// stfle tells STORE FACILITY LIST EXTENDED: b2 b0, base and displacement.
func (w instruction) stfle() bool { return w>>16 == 0xb2b0 }

// diag308 tells DIAGNOSE with code 0x308: 83, two registers, base 0 and
// displacement 0x308.
func (w instruction) diag308() bool { return w>>24 == 0x83 && w&0xffff == 0x0308 }

// findTraps finds the instructions that the stand-in must see in the image's
// plain text, by address. Instructions lie on even addresses; data that look
// like one are harmless, as QEMU stops only where the guest executes.
func findTraps(mem RAM) (map[uint64]instruction, error) {
	traps := make(map[uint64]instruction)
	asks := false
	end := stage3aEnd(mem)
	for addr := uint64(seimage.Stage3aAddr); addr+4 <= end; addr += 2 {
		w := instruction(binary.BigEndian.Uint32(mem[addr:]))
		if !w.stfle() && !w.diag308() {
			continue
		}
		asks = asks || w.diag308()
		traps[addr] = w
	}
	switch {
	case !asks:
		return nil, fmt.Errorf("%w: nothing from 0x%x to 0x%x calls DIAGNOSE 0x308", ErrStage3a, seimage.Stage3aAddr, end)
	case len(traps) > maxTraps:
		return nil, fmt.Errorf("%w: %d instructions to stop at, at most %d", ErrStage3a, len(traps), maxTraps)
	}
	return traps, nil
}

// stage3aEnd is where the first page begins that holds an SE header, or where
// that would be at the earliest.
func stage3aEnd(mem RAM) uint64 {
	end := min(uint64(len(mem)), maxHeaderAddr)
	for addr := uint64(seimage.Stage3aAddr &^ (seimage.PageSize - 1)); addr+seimage.PageSize <= end; addr += seimage.PageSize {
		if string(mem[addr:addr+8]) == seimage.HeaderMagic {
			return addr
		}
	}
	return min(end, seimage.MinHeaderAddr)
}
