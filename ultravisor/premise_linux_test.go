package ultravisor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/secexec/secexec/seimage"
	"github.com/secexec/secexec/ultravisor/gdb"
)

// What we believe of QEMU's gdb stub, asked of the QEMU that is installed.

// bare is an image that is nothing but code at 0x11000 and a PSW at 0 that
// starts it.
func bare(code ...byte) []byte {
	b := make([]byte, 0x20000)
	copy(b, []byte{0x00, 0x08, 0x00, 0x01, 0x80, 0x01, 0x10, 0x00})
	copy(b[seimage.Stage3aAddr:], code)
	return b
}

// debug connects a client to a guest that runs this code.
func debug(t *testing.T, code ...byte) (context.Context, *stock, *gdb.Client) {
	t.Helper()
	s := startStock(t, bare(code...))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	c, err := gdb.New(ctx, s.dial(t))
	if err != nil {
		t.Fatal(err)
	}
	return ctx, s, c
}

// say exchanges one packet with the stub by hand.
func say(t *testing.T, conn net.Conn, r *bufio.Reader, text string) string {
	t.Helper()
	s := byte(0)
	for i := range len(text) {
		s += text[i]
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(conn, "$%s#%02x", text, s); err != nil {
		t.Fatal(err)
	}
	reply, err := r.ReadString('#')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Discard(2); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "+"); err != nil {
		t.Fatal(err)
	}
	return reply[len("+$") : len(reply)-1]
}

// Single registers can be read only by who has asked for the target's
// description: why gdb.New does.
func TestPremiseRegistersNeedTheDescription(t *testing.T) {
	t.Parallel()
	s := startStock(t, bare())
	conn := s.dial(t)
	r := bufio.NewReader(conn)
	if got := say(t, conn, r, "p1"); got != "" {
		t.Errorf("p1 before the description: %q; gdb.New need not ask for it any more", got)
	}
	say(t, conn, r, "qSupported:xmlRegisters=s390")
	if got := say(t, conn, r, "qXfer:features:read:target.xml:0,ffb"); len(got) < 2 || got[0] != 'l' {
		t.Errorf("target description: %.80q", got)
	}
	if got := say(t, conn, r, "p1"); got != "0000000000011000" {
		t.Errorf("p1 after the description: %q, wants the PSW's address", got)
	}
	if got := say(t, conn, r, "p0"); len(got) != 16 {
		t.Errorf("p0: %q, wants the PSW's mask", got)
	}
}

// Registers 0 and 1 are the PSW, 2 to 17 the general registers, and a guest
// sees what is written to them.
func TestPremiseRegisterNumbers(t *testing.T) {
	t.Parallel()
	// stmg %r0,%r15,0x400
	ctx, s, c := debug(t, 0xeb, 0x0f, 0x04, 0x00, 0x00, 0x24)
	for r := range 16 {
		if err := c.WriteRegister(ctx, regGeneral+r, 0x0102030405060700+uint64(r)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WriteRegister(ctx, regMask, seimage.MaskBAEA); err != nil {
		t.Fatal(err)
	}
	if err := c.Step(ctx); err != nil {
		t.Fatal(err)
	}
	for r := range 16 {
		if got := binary.BigEndian.Uint64(s.ram[0x400+8*r:]); got != 0x0102030405060700+uint64(r) {
			t.Errorf("general register %d stored as 0x%x", r, got)
		}
	}
	addr, err := c.ReadRegister(ctx, regAddr)
	if err != nil || addr != seimage.Stage3aAddr+6 {
		t.Errorf("PSW address 0x%x, %v", addr, err)
	}
	mask, err := c.ReadRegister(ctx, regMask)
	if err != nil || mask&seimage.MaskBAEA != seimage.MaskBAEA {
		t.Errorf("PSW mask 0x%x, %v", mask, err)
	}
}

// A software breakpoint stops the guest before the instruction and does not
// show in its memory; so a loader that checks itself sees nothing.
func TestPremiseBreakpointsAreNotInMemory(t *testing.T) {
	t.Parallel()
	code := []byte{0xa7, 0x19, 0x00, 0x01, 0xa7, 0x19, 0x00, 0x02} // lghi %r1,1; lghi %r1,2
	ctx, s, c := debug(t, code...)
	const second = seimage.Stage3aAddr + 4
	if err := c.SetBreakpoint(ctx, second, 4); err != nil {
		t.Fatal(err)
	}
	if err := c.Continue(ctx); err != nil {
		t.Fatal(err)
	}
	if addr, err := c.ReadRegister(ctx, regAddr); err != nil || addr != second {
		t.Errorf("stopped at 0x%x, %v", addr, err)
	}
	if r1, err := c.ReadRegister(ctx, regGeneral+1); err != nil || r1 != 1 {
		t.Errorf("register 1 is %d, %v: wants 1, as the second instruction has not run", r1, err)
	}
	if !bytes.Equal(s.ram[seimage.Stage3aAddr:][:len(code)], code) {
		t.Errorf("memory holds %x", s.ram[seimage.Stage3aAddr:][:len(code)])
	}
}

// The mapped file is the guest's memory while it is stopped: the image is in it
// before the first instruction, what we write runs, what the guest stores we see.
func TestPremiseMemoryIsShared(t *testing.T) {
	t.Parallel()
	ctx, s, c := debug(t, 0x07, 0x07) // bcr 0,%r7: nothing
	if !bytes.HasPrefix(s.ram[seimage.Stage3aAddr:], []byte{0x07, 0x07, 0, 0}) {
		t.Fatalf("before the first instruction memory holds %x", s.ram[seimage.Stage3aAddr:][:4])
	}
	if err := c.Step(ctx); err != nil {
		t.Fatal(err)
	}
	copy(s.ram[seimage.Stage3aAddr+2:], []byte{0x92, 0x5a, 0x05, 0x00}) // mvi 0x500,0x5a
	if err := c.Step(ctx); err != nil {
		t.Fatal(err)
	}
	if got := s.ram[0x500]; got != 0x5a {
		t.Errorf("the guest's store shows as 0x%02x", got)
	}
}

// QEMU's translation has no unpack facility, and its list reaches as far as to
// show one: why the stand-in sets one bit and no more.
func TestPremiseNoUnpackFacility(t *testing.T) {
	t.Parallel()
	ctx, s, c := debug(t, 0xb2, 0xb0, 0x06, 0x00) // stfle 0x600
	if err := c.WriteRegister(ctx, regGeneral, 3); err != nil {
		t.Fatal(err)
	}
	if err := c.Step(ctx); err != nil {
		t.Fatal(err)
	}
	if s.ram[0x600+unpackFacility/8]&(0x80>>(unpackFacility%8)) != 0 {
		t.Error("QEMU shows facility 161: it could do without the stand-in")
	}
	r0, err := c.ReadRegister(ctx, regGeneral)
	if err != nil || r0&0xff < unpackFacility/64 {
		t.Errorf("the list has %d doublewords, %v; wants 3", r0&0xff+1, err)
	}
}

// A guest that stops for good tells the debugger so, and takes QEMU with it.
func TestPremiseGuestsEnd(t *testing.T) {
	t.Parallel()
	ctx, s, c := debug(t, 0xb2, 0xb2, 0x02, 0x00) // lpswe 0x200
	copy(s.ram[0x200:], stopAt(0x77))
	err := c.Continue(ctx)
	for errors.Is(err, gdb.ErrStopped) {
		t.Logf("stop reply: %v", err)
		err = c.Continue(ctx)
	}
	if !errors.Is(err, gdb.ErrExited) {
		t.Errorf("error %v", err)
	}
	if got := s.end(t); got != 0x77 {
		t.Errorf("stopped at 0x%x", got)
	}
}

// A debugger that vanishes without detaching leaves a stopped guest stopped:
// why Boot's caller ends QEMU after an error.
func TestPremiseStoppedGuestStaysStopped(t *testing.T) {
	t.Parallel()
	s := startStock(t, bare(0xa7, 0xf4, 0x00, 0x00)) // j .
	conn := s.dial(t)
	say(t, conn, bufio.NewReader(conn), "qSupported:xmlRegisters=s390")
	conn.Close()
	again := s.dial(t)
	if got := say(t, again, bufio.NewReader(again), "?"); len(got) < 3 || got[:3] != "T05" {
		t.Errorf("status for the second debugger: %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := gdb.New(ctx, again)
	if err != nil {
		t.Fatal(err)
	}
	if addr, err := c.ReadRegister(ctx, regAddr); err != nil || addr != seimage.Stage3aAddr {
		t.Errorf("stopped at 0x%x, %v", addr, err)
	}
}
