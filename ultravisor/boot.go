package ultravisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/secexec/secexec/seimage"
	"github.com/secexec/secexec/ultravisor/gdb"
)

// Registers of QEMU's gdb stub for s390x (gdb-xml/s390x-core64.xml): 0 and 1
// are the PSW, 2 to 17 the general registers.
const (
	regMask    = 0
	regAddr    = 1
	regGeneral = 2
)

// The facility that stage3a asks for, and the subcodes of DIAGNOSE 0x308 that
// the ultravisor answers (Linux: arch/s390/include/asm/diag.h).
const (
	unpackFacility   = 161
	subcodeSetParams = 8
	subcodeUnpack    = 10
)

// trapSize is the length in bytes of STFLE and of DIAGNOSE.
const trapSize = 4

// Boot drives a guest that QEMU holds stopped at its first instruction (-S)
// through stage3a, unmodified, up to the ultravisor's decision. conn is a
// connection to QEMU's gdb stub; mem is the guest's memory, shared with QEMU.
//
// When the image is admitted the guest runs on in stage3b and Boot returns nil.
// When it is refused stage3a runs on to print why, and Boot returns the
// *Refusal. After any other error the guest is of no use and QEMU is to be
// ended: gdb.ErrExited and gdb.ErrStopped say that the guest came to an end by
// itself. In all cases conn is closed.
func (u *Ultravisor) Boot(ctx context.Context, conn net.Conn, mem RAM, log *slog.Logger) error {
	defer conn.Close()
	c, err := gdb.New(ctx, conn)
	if err != nil {
		return err
	}
	return (&boot{u: u, c: c, mem: mem, log: log}).run(ctx)
}

// BootDisk is Boot for a guest whose firmware loads the image from a disk first.
// A breakpoint is not written into memory by QEMU's emulation, so the one at the
// image's entry holds while firmware writes there.
func (u *Ultravisor) BootDisk(ctx context.Context, conn net.Conn, mem RAM, log *slog.Logger) error {
	defer conn.Close()
	c, err := gdb.New(ctx, conn)
	if err != nil {
		return err
	}
	b := &boot{u: u, c: c, mem: mem, log: log}
	if err := b.firmware(ctx); err != nil {
		return fmt.Errorf("wait for firmware to load an image: %w", err)
	}
	return b.run(ctx)
}

// firmware lets the guest run until it is about to start the loaded image.
func (b *boot) firmware(ctx context.Context) error {
	if err := b.c.SetBreakpoint(ctx, seimage.EntryAddr, trapSize); err != nil {
		return err
	}
	if err := b.c.Continue(ctx); err != nil {
		return err
	}
	addr, err := b.c.ReadRegister(ctx, regAddr)
	if err != nil {
		return err
	}
	if addr != seimage.EntryAddr {
		return fmt.Errorf("%w at 0x%x, where no breakpoint is", gdb.ErrStopped, addr)
	}
	return b.c.ClearBreakpoint(ctx, seimage.EntryAddr, trapSize)
}

// run goes from the stopped guest, its image loaded, to the decision.
func (b *boot) run(ctx context.Context) (err error) {
	if b.traps, err = findTraps(b.mem); err != nil {
		return err
	}
	for addr := range b.traps {
		if err := b.c.SetBreakpoint(ctx, addr, trapSize); err != nil {
			return err
		}
	}
	for {
		if err := b.c.Continue(ctx); err != nil {
			return fmt.Errorf("wait for stage3a: %w", err)
		}
		if done, err := b.trap(ctx); done || err != nil {
			return err
		}
	}
}

// boot is one guest between its first instruction and the decision.
type boot struct {
	u     *Ultravisor
	c     *gdb.Client
	mem   RAM
	traps map[uint64]instruction
	log   *slog.Logger
}

// trap handles the instruction that the guest stopped at. done says that the
// guest runs on without us.
func (b *boot) trap(ctx context.Context) (done bool, err error) {
	addr, err := b.c.ReadRegister(ctx, regAddr)
	if err != nil {
		return false, err
	}
	w, ours := b.traps[addr]
	switch {
	case !ours:
		return false, fmt.Errorf("wait for stage3a: %w at 0x%x, where no breakpoint is", gdb.ErrStopped, addr)
	case w.stfle():
		return false, b.stfle(ctx, addr, w)
	}
	return b.diag(ctx, addr, int(w>>20&15), int(w>>16&15))
}

// stfle lets the instruction run and shows the unpack facility in the list that
// it stored, where the list reaches that far.
func (b *boot) stfle(ctx context.Context, addr uint64, w instruction) error {
	asked, err := b.general(ctx, 0) // low byte: doublewords wanted, less one
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
	if asked&0xff < unpackFacility/64 || at < list || at >= uint64(len(b.mem)) {
		return nil
	}
	b.mem[at] |= 0x80 >> (unpackFacility % 8)
	b.log.Debug("unpack facility shown", "list", fmt.Sprintf("0x%x", list))
	return nil
}

// diag answers DIAGNOSE 0x308 with the operands r1 and r3: r3 holds the subcode,
// r1 the IPIB's address; the result goes to the register after r1, which is
// even. Other subcodes are the machine's to answer.
func (b *boot) diag(ctx context.Context, addr uint64, r1, r3 int) (done bool, err error) {
	subcode, err := b.general(ctx, r3)
	if err != nil {
		return false, err
	}
	var psw seimage.PSW
	switch {
	case subcode == subcodeSetParams && r1%2 == 0:
		var ipib uint64
		if ipib, err = b.general(ctx, r1); err != nil {
			return false, err
		}
		err = b.u.SetParameters(b.mem, ipib)
	case subcode == subcodeUnpack && r1%2 == 0:
		if psw, err = b.u.Unpack(b.mem); err == nil {
			b.log.Info("image unpacked", "start", fmt.Sprintf("0x%x", psw.Addr))
			return true, b.start(ctx, psw)
		}
	default:
		return false, b.over(ctx, addr)
	}
	result := uint64(diagOK)
	var refusal *Refusal
	if errors.As(err, &refusal) {
		result = refusal.Result()
	} else if err != nil {
		return false, err
	}
	if err := b.c.WriteRegister(ctx, regGeneral+r1+1, result); err != nil {
		return false, err
	}
	if err := b.c.WriteRegister(ctx, regAddr, addr+trapSize); err != nil {
		return false, err
	}
	if refusal == nil {
		return false, nil
	}
	// stage3a goes on alone and prints the reason.
	b.log.Info("image refused", "reason", refusal.Words, "result", fmt.Sprintf("0x%016x", result))
	return true, errors.Join(refusal, b.leave(ctx))
}

// over runs the instruction under a breakpoint.
func (b *boot) over(ctx context.Context, addr uint64) error {
	if err := b.c.ClearBreakpoint(ctx, addr, trapSize); err != nil {
		return err
	}
	if err := b.c.Step(ctx); err != nil {
		return err
	}
	return b.c.SetBreakpoint(ctx, addr, trapSize)
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
		if err := b.c.ClearBreakpoint(ctx, addr, trapSize); err != nil {
			return err
		}
	}
	return b.c.Detach(ctx)
}

func (b *boot) general(ctx context.Context, n int) (uint64, error) {
	return b.c.ReadRegister(ctx, regGeneral+n)
}
