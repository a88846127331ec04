// Package bootloader holds the boot loader's stages as built blobs, and the
// arguments that the image builder writes into them. cross/bootloader.sh builds
// the blobs; docs/boot-loader.md is the contract.
package bootloader

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
)

//go:embed entry.bin
var entry []byte

//go:embed stage3a.bin
var stage3a []byte

//go:embed stage3b.bin
var stage3b []byte

// Sizes of the arguments at the end of each stage, in bytes.
const (
	Stage3aArgsSize = 24
	Stage3bArgsSize = 64
)

// Stage3aAddr is where stage3a is linked and loaded; Stage3aArgs count from
// the address of the arguments.
const Stage3aAddr = 0x11000

// ErrArgs says that bytes hold no arguments of a stage.
var ErrArgs = errors.New("no boot loader arguments")

// Head returns the short PSW at address 0 that starts stage3a: bit 12, 64-bit
// addressing, instruction address.
func Head() []byte {
	return binary.BigEndian.AppendUint64(nil, 0x0008_0000_0000_0000|0x1_8000_0000|Stage3aAddr)
}

// Entry returns the code at 0x10000, where zipl's loader starts images.
func Entry() []byte { return append([]byte(nil), entry...) }

// Stage3aArgs tell stage3a where the SE header and the IPIB are, as absolute
// addresses.
type Stage3aArgs struct{ HeaderAddr, HeaderSize, IPIBAddr uint64 }

// Stage3aSize is the stage's size in bytes.
func Stage3aSize() int { return len(stage3a) }

// Stage3a returns the stage with these arguments. In it addresses are offsets
// from the address of the arguments.
func Stage3a(args Stage3aArgs) []byte {
	b := append([]byte(nil), stage3a...)
	base := uint64(Stage3aAddr + len(b) - Stage3aArgsSize)
	be := binary.BigEndian
	at := b[len(b)-Stage3aArgsSize:]
	be.PutUint64(at, args.HeaderAddr-base)
	be.PutUint64(at[8:], args.HeaderSize)
	be.PutUint64(at[16:], args.IPIBAddr-base)
	return b
}

// Range is a range of guest memory in bytes.
type Range struct{ Addr, Size uint64 }

// Stage3bArgs tell stage3b what to start. Sizes are those before padding; the
// command line's counts its NUL; an initrd of size 0 is none.
type Stage3bArgs struct {
	Kernel, Cmdline, Initrd Range
	PSWMask, PSWAddr        uint64
}

// Stage3bSize is the stage's size in bytes.
func Stage3bSize() int { return len(stage3b) }

// Stage3b returns the stage with these arguments.
func Stage3b(args Stage3bArgs) []byte {
	b := append([]byte(nil), stage3b...)
	at := b[len(b)-Stage3bArgsSize:]
	for i, v := range []uint64{
		args.Kernel.Addr, args.Kernel.Size, args.Cmdline.Addr, args.Cmdline.Size,
		args.Initrd.Addr, args.Initrd.Size, args.PSWMask, args.PSWAddr,
	} {
		binary.BigEndian.PutUint64(at[8*i:], v)
	}
	return b
}

// FindStage3bArgs finds the arguments in a stage3b padded to whole pages, ours
// or another builder's: the only place where a kernel at kernelAddr stands,
// of a size that fills its component but for less than a page. They start on 4
// bytes: s390-tools' stage3b has an odd number of words before them.
func FindStage3bArgs(padded []byte, kernelAddr, kernelPadded uint64) (Stage3bArgs, error) {
	const page = 4096
	be := binary.BigEndian
	for at := (len(padded) - Stage3bArgsSize) &^ 3; at >= 0; at -= 4 {
		b := padded[at:]
		size := be.Uint64(b[8:])
		if be.Uint64(b) != kernelAddr || size > kernelPadded || size+page <= kernelPadded {
			continue
		}
		return Stage3bArgs{
			Kernel:  Range{kernelAddr, size},
			Cmdline: Range{be.Uint64(b[16:]), be.Uint64(b[24:])},
			Initrd:  Range{be.Uint64(b[32:]), be.Uint64(b[40:])},
			PSWMask: be.Uint64(b[48:]), PSWAddr: be.Uint64(b[56:]),
		}, nil
	}
	return Stage3bArgs{}, fmt.Errorf("find stage3b's arguments: %w", ErrArgs)
}
