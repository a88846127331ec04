// Package gdb is a client of the GDB remote serial protocol, as much of it as
// it takes to drive a guest of QEMU's past a few instructions: 64-bit registers,
// software breakpoints, continue, step, detach. The protocol is that of GDB's
// manual, appendix E; what is particular to QEMU's stub is said where it matters
// and pinned by the premise tests of package ultravisor.
package gdb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Errors of the protocol.
var (
	// ErrProtocol says that the stub sent what the protocol does not allow.
	ErrProtocol = errors.New("gdb stub broke the protocol")
	// ErrStub says that the stub answered a command with an error, or that it
	// does not know the command.
	ErrStub = errors.New("gdb stub refused")
	// ErrExited says that the guest, or QEMU itself, ended.
	ErrExited = errors.New("guest ended")
	// ErrStopped says that the guest stopped for another reason than a
	// breakpoint or a step: the operator paused it, or its CPU stopped for good.
	ErrStopped = errors.New("guest stopped")
)

// signalTrap is the signal number of a stop at a breakpoint or after a step.
const signalTrap = 5

// Client talks to one stub. It is not safe for use by several goroutines. After
// an error other than ErrStub the connection is of no use any more.
type Client struct {
	conn net.Conn
	r    *bufio.Reader
}

// New greets the stub of a stopped guest. QEMU's for s390x answers requests for
// single registers only once it was asked for its target description.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, r: bufio.NewReader(conn)}
	for _, greeting := range []string{"qSupported:xmlRegisters=s390", "qXfer:features:read:target.xml:0,ffb"} {
		if _, err := c.call(ctx, greeting); err != nil {
			return nil, fmt.Errorf("greet gdb stub: %w", err)
		}
	}
	return c, nil
}

// ReadRegister returns a 64-bit register, big-endian on the wire.
func (c *Client) ReadRegister(ctx context.Context, n int) (uint64, error) {
	reply, err := c.call(ctx, fmt.Sprintf("p%x", n))
	if err != nil {
		return 0, fmt.Errorf("read register %d: %w", n, err)
	}
	v, err := strconv.ParseUint(reply, 16, 64)
	if err != nil || len(reply) != 16 {
		return 0, fmt.Errorf("read register %d: %w: %.40q", n, ErrProtocol, reply)
	}
	return v, nil
}

// WriteRegister sets a 64-bit register.
func (c *Client) WriteRegister(ctx context.Context, n int, v uint64) error {
	return c.ok(ctx, fmt.Sprintf("write register %d", n), fmt.Sprintf("P%x=%016x", n, v))
}

// SetBreakpoint sets a software breakpoint on an instruction of size bytes.
// QEMU keeps it beside the guest's memory, which does not change.
func (c *Client) SetBreakpoint(ctx context.Context, addr uint64, size int) error {
	return c.ok(ctx, fmt.Sprintf("set breakpoint at 0x%x", addr), fmt.Sprintf("Z0,%x,%x", addr, size))
}

// ClearBreakpoint takes a breakpoint away.
func (c *Client) ClearBreakpoint(ctx context.Context, addr uint64, size int) error {
	return c.ok(ctx, fmt.Sprintf("clear breakpoint at 0x%x", addr), fmt.Sprintf("z0,%x,%x", addr, size))
}

// Continue lets the guest run and returns at its next breakpoint.
func (c *Client) Continue(ctx context.Context) error { return c.run(ctx, "c") }

// Step runs one instruction.
func (c *Client) Step(ctx context.Context) error { return c.run(ctx, "s") }

// Detach lets the guest run on without a debugger and closes the connection.
// A guest that ends at once takes the connection with it: no failure.
func (c *Client) Detach(ctx context.Context) error {
	defer c.conn.Close()
	err := c.ok(ctx, "detach", "D")
	if errors.Is(err, ErrExited) {
		return nil
	}
	return err
}

// run sends continue or step and reads the stop reply, as long as that takes.
func (c *Client) run(ctx context.Context, command string) error {
	reply, err := c.call(ctx, command)
	if err != nil {
		return fmt.Errorf("run guest: %w", err)
	}
	switch kind := reply[0]; {
	case kind == 'W' || kind == 'X':
		return fmt.Errorf("run guest: %w", ErrExited)
	case (kind == 'T' || kind == 'S') && len(reply) >= 3:
		signal, err := strconv.ParseUint(reply[1:3], 16, 8)
		if err != nil {
			break
		}
		if signal != signalTrap {
			return fmt.Errorf("run guest: %w by signal %d", ErrStopped, signal)
		}
		return nil
	}
	return fmt.Errorf("run guest: %w: %.40q", ErrProtocol, reply)
}

// ok sends a command that has no other answer than OK.
func (c *Client) ok(ctx context.Context, what, command string) error {
	reply, err := c.call(ctx, command)
	if err == nil && reply != "OK" {
		err = fmt.Errorf("%w: %.40q", ErrProtocol, reply)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// call sends a command and returns the reply, which is not empty. The context's
// end interrupts it.
func (c *Client) call(ctx context.Context, command string) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	deadline, _ := ctx.Deadline()
	if err := c.conn.SetDeadline(deadline); err != nil {
		return "", gone(err)
	}
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	reply, err := c.exchange(command)
	switch {
	case err == nil:
		return reply, nil
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		// The connection's clock was a moment ahead of the context's.
		return "", context.DeadlineExceeded
	}
	return "", gone(err)
}

// gone turns the ways in which a connection ends with QEMU into one.
func gone(err error) error {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, end) {
			return fmt.Errorf("%w: connection to gdb stub: %w", ErrExited, err)
		}
	}
	return err
}

// exchange sends a packet, which the stub acknowledges, and reads one, which it
// acknowledges in turn.
func (c *Client) exchange(command string) (string, error) {
	if _, err := c.conn.Write(encode(command)); err != nil {
		return "", err
	}
	ack, err := c.r.ReadByte()
	if err != nil {
		return "", err
	}
	if ack != '+' {
		return "", fmt.Errorf("%w: %q in place of an acknowledgement", ErrProtocol, ack)
	}
	reply, err := readPacket(c.r)
	if err != nil {
		return "", err
	}
	if _, err := c.conn.Write([]byte{'+'}); err != nil {
		return "", err
	}
	switch {
	case reply == "":
		return "", fmt.Errorf("%w: it does not know %.20q", ErrStub, command)
	case len(reply) == 3 && reply[0] == 'E':
		return "", fmt.Errorf("%w %.20q with %s", ErrStub, command, reply)
	}
	return reply, nil
}
