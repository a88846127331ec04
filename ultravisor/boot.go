package ultravisor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/secexec/secexec/seimage"
	"github.com/secexec/secexec/ultravisor/gdb"
)

// Registers of QEMU's gdb stub for s390x: 0 and 1 are the PSW, 2 to 17 the
// general registers.
const (
	regMask    = 0
	regAddr    = 1
	regGeneral = 2
)

// The facility that stage3a asks for, and the subcodes of DIAGNOSE 0x308 that
// the ultravisor answers.
const (
	unpackFacility   = 161
	subcodeSetParams = 8
	subcodeUnpack    = 10
)

// ErrStage3a says that the plain text of the image holds no boot loader of the
// kind that asks an ultravisor.
var ErrStage3a = errors.New("no stage3a found in guest memory")

// Boot drives a guest that QEMU holds stopped at its first instruction (-S)
// through stage3a, unmodified, up to the ultravisor's decision. gdb is a
// connection to QEMU's gdb stub; mem is the guest's memory, shared with QEMU.
//
// When the image is admitted the guest runs on in stage3b and Boot returns nil.
// When it is refused stage3a runs on to print why, and Boot returns the
// *Refusal. In both cases the connection is closed.
func (u *Ultravisor) Boot(ctx context.Context, conn net.Conn, mem RAM, log *slog.Logger) error {
	defer conn.Close()
	c, err := gdb.New(ctx, conn)
	if err != nil {
		return err
	}
	b := &boot{u: u, c: c, mem: mem, traps: findTraps(mem), log: log}
	if len(b.traps) == 0 {
		return ErrStage3a
	}
	for addr := range b.traps {
		if err := c.SetBreakpoint(ctx, addr, 4); err != nil {
			return err
		}
	}
	for {
		if err := c.Continue(ctx); err != nil {
			return err
		}
		addr, err := c.ReadRegister(ctx, regAddr)
		if err != nil {
			return err
		}
		done, err := b.trap(ctx, addr)
		if done || err != nil {
			return err
		}
	}
}

type boot struct {
	u     *Ultravisor
	c     *gdb.Client
	mem   RAM
	traps map[uint64]uint32 // address to instruction word
	log   *slog.Logger
}

// findTraps finds the instructions that the stand-in must see in the image's
// plain text: STFLE, and DIAGNOSE with code 0x308. Instructions lie on even
// addresses; a false find is harmless, since it stops the guest only if executed.
func findTraps(mem RAM) map[uint64]uint32 {
	end := uint64(min(len(mem), seimage.MinHeaderAddr))
	for ; end+seimage.PageSize <= uint64(len(mem)) && end < 1<<20; end += seimage.PageSize {
		if string(mem[end:end+8]) == seimage.HeaderMagic {
			break
		}
	}
	if end >= 1<<20 {
		end = seimage.MinHeaderAddr
	}
	traps := make(map[uint64]uint32)
	for addr := uint64(seimage.Stage3aAddr); addr+4 <= end; addr += 2 {
		w := binary.BigEndian.Uint32(mem[addr:])
		if w>>16 == 0xb2b0 || w>>24 == 0x83 && w&0xffff == 0x0308 {
			traps[addr] = w
		}
	}
	return traps
}

// trap handles the instruction that the guest stopped at. done says that the
// guest runs on without us.
func (b *boot) trap(ctx context.Context, addr uint64) (done bool, err error) {
	w, ours := b.traps[addr]
	switch {
	case !ours:
		return false, fmt.Errorf("guest stopped at 0x%x, where no breakpoint is", addr)
	case w>>16 == 0xb2b0:
		return false, b.stfle(ctx, addr, w)
	}
	r1, r3 := int(w>>20&15), int(w>>16&15)
	subcode, err := b.general(ctx, r3)
	if err != nil {
		return false, err
	}
	if subcode != subcodeSetParams && subcode != subcodeUnpack || r1%2 != 0 {
		return false, b.over(ctx, addr)
	}
	var psw seimage.PSW
	if subcode == subcodeSetParams {
		var ipib uint64
		if ipib, err = b.general(ctx, r1); err != nil {
			return false, err
		}
		err = b.u.SetParameters(b.mem, ipib)
	} else {
		psw, err = b.u.Unpack(b.mem)
	}
	result := uint64(diagOK)
	var refusal *Refusal
	if errors.As(err, &refusal) {
		result = refusal.Result()
	} else if err != nil {
		return false, err
	}
	if subcode == subcodeUnpack && refusal == nil {
		b.log.Info("image unpacked", "start", fmt.Sprintf("0x%x", psw.Addr))
		return true, b.start(ctx, psw)
	}
	if err := b.c.WriteRegister(ctx, regGeneral+r1+1, result); err != nil {
		return false, err
	}
	if err := b.c.WriteRegister(ctx, regAddr, addr+4); err != nil {
		return false, err
	}
	if refusal != nil {
		// stage3a goes on alone and prints the reason.
		return true, errors.Join(refusal, b.leave(ctx))
	}
	return false, nil
}

// stfle lets the instruction run and shows the unpack facility in the list that
// it stored, where the list reaches that far.
func (b *boot) stfle(ctx context.Context, addr uint64, w uint32) error {
	last, err := b.general(ctx, 0)
	if err != nil {
		return err
	}
	list := uint64(w & 0xfff)
	if base := int(w >> 12 & 15); base != 0 {
		v, err := b.general(ctx, base)
		if err != nil {
			return err
		}
		list += v
	}
	if err := b.over(ctx, addr); err != nil {
		return err
	}
	at := list + unpackFacility/8
	if last&0xff < unpackFacility/64 || at < list || at >= uint64(len(b.mem)) {
		return nil
	}
	b.mem[at] |= 0x80 >> (unpackFacility % 8)
	return nil
}

// over runs the instruction under a breakpoint.
func (b *boot) over(ctx context.Context, addr uint64) error {
	if err := b.c.ClearBreakpoint(ctx, addr, 4); err != nil {
		return err
	}
	if err := b.c.Step(ctx); err != nil {
		return err
	}
	return b.c.SetBreakpoint(ctx, addr, 4)
}

// start puts the guest where the SE header says, as after a reset.
func (b *boot) start(ctx context.Context, psw seimage.PSW) error {
	for r := range 16 {
		if err := b.c.WriteRegister(ctx, regGeneral+r, 0); err != nil {
			return err
		}
	}
	if err := b.c.WriteRegister(ctx, regMask, psw.Mask); err != nil {
		return err
	}
	if err := b.c.WriteRegister(ctx, regAddr, psw.Addr); err != nil {
		return err
	}
	return b.leave(ctx)
}

// leave takes all breakpoints away and lets the guest run.
func (b *boot) leave(ctx context.Context) error {
	for addr := range b.traps {
		if err := b.c.ClearBreakpoint(ctx, addr, 4); err != nil {
			return err
		}
	}
	return b.c.Detach(ctx)
}

func (b *boot) general(ctx context.Context, n int) (uint64, error) {
	return b.c.ReadRegister(ctx, regGeneral+n)
}
