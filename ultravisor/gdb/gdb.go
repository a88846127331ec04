// Package gdb is a client of the GDB remote serial protocol, as much of it as
// it takes to drive a guest of QEMU's past a few instructions.
package gdb

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// maxPacket bounds a packet from the stub: s390's longest is a part of the
// target description.
const maxPacket = 64 << 10

// Errors of the protocol.
var (
	ErrProtocol = errors.New("gdb stub broke the protocol")
	ErrStub     = errors.New("gdb stub refused")
	ErrExited   = errors.New("guest ended")
)

// Client talks to one stub. It is not safe for use by several goroutines.
type Client struct {
	conn net.Conn
	r    *bufio.Reader
}

// New greets the stub. QEMU's for s390x answers requests for single registers
// only once it was asked for its target description.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, r: bufio.NewReader(conn)}
	if _, err := c.call(ctx, "qSupported:xmlRegisters=s390"); err != nil {
		return nil, fmt.Errorf("greet gdb stub: %w", err)
	}
	if _, err := c.call(ctx, "qXfer:features:read:target.xml:0,ffb"); err != nil {
		return nil, fmt.Errorf("greet gdb stub: %w", err)
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
	return c.ok(ctx, "set breakpoint", fmt.Sprintf("Z0,%x,%x", addr, size))
}

// ClearBreakpoint takes a breakpoint away.
func (c *Client) ClearBreakpoint(ctx context.Context, addr uint64, size int) error {
	return c.ok(ctx, "clear breakpoint", fmt.Sprintf("z0,%x,%x", addr, size))
}

// Continue lets the guest run to its next stop. ErrExited says that it ended.
func (c *Client) Continue(ctx context.Context) error { return c.run(ctx, "c") }

// Step runs one instruction.
func (c *Client) Step(ctx context.Context) error { return c.run(ctx, "s") }

// Detach lets the guest run on without a debugger and closes the connection.
// A guest that ends at once takes the connection with it: no failure.
func (c *Client) Detach(ctx context.Context) error {
	defer c.conn.Close()
	err := c.ok(ctx, "detach", "D")
	if ctx.Err() == nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
		return nil
	}
	return err
}

func (c *Client) run(ctx context.Context, command string) error {
	reply, err := c.call(ctx, command)
	if err != nil {
		return fmt.Errorf("run guest: %w", err)
	}
	switch reply[:min(1, len(reply))] {
	case "T", "S":
		return nil
	case "W", "X":
		return ErrExited
	}
	return fmt.Errorf("run guest: %w: %.40q", ErrProtocol, reply)
}

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

// call sends a command and returns the reply. The context's end interrupts it
// and leaves the connection of no use.
func (c *Client) call(ctx context.Context, command string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	deadline, _ := ctx.Deadline()
	if err := c.conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	reply, err := c.exchange(command)
	if err != nil && ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return reply, err
}

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

// encode frames a packet: $ text # checksum. Our commands hold nothing that
// needs escaping.
func encode(text string) []byte {
	return fmt.Appendf(nil, "$%s#%02x", text, sum(text))
}

func sum(text string) (s byte) {
	for i := range len(text) {
		s += text[i]
	}
	return s
}

// readPacket reads one framed packet; } escapes the byte after it.
func readPacket(r *bufio.Reader) (string, error) {
	start, err := r.ReadByte()
	if err != nil {
		return "", err
	}
	if start != '$' {
		return "", fmt.Errorf("%w: packet starts with %q", ErrProtocol, start)
	}
	var raw strings.Builder
	for {
		b, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if b == '#' {
			break
		}
		if raw.Len() == maxPacket {
			return "", fmt.Errorf("%w: packet of more than %d bytes", ErrProtocol, maxPacket)
		}
		raw.WriteByte(b)
	}
	var digits [2]byte
	for i := range digits {
		if digits[i], err = r.ReadByte(); err != nil {
			return "", err
		}
	}
	check, err := hex.DecodeString(string(digits[:]))
	if err != nil || check[0] != sum(raw.String()) {
		return "", fmt.Errorf("%w: checksum %q", ErrProtocol, digits[:])
	}
	if !strings.Contains(raw.String(), "}") {
		return raw.String(), nil
	}
	var text strings.Builder
	for s := raw.String(); s != ""; s = s[1:] {
		if s[0] == '}' && len(s) > 1 {
			s = s[1:]
			text.WriteByte(s[0] ^ 0x20)
			continue
		}
		text.WriteByte(s[0])
	}
	return text.String(), nil
}
