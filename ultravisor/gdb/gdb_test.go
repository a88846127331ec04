package gdb

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

func TestSession(t *testing.T) {
	t.Parallel()
	ctx, c := greeted(t,
		exchange{"Z0,11010,4", ack("OK")},
		exchange{"c", ack("T05thread:p01.01;")},
		exchange{"p1", ack("0000000000011010")},
		exchange{"z0,11010,4", ack("OK")},
		exchange{"s", ack("S05")},
		exchange{"P11=ffffffffffff0a02", ack("OK")},
		exchange{"D", ack("OK")},
	)
	for _, step := range []func() error{
		func() error { return c.SetBreakpoint(ctx, 0x11010, 4) },
		func() error { return c.Continue(ctx) },
		func() error {
			v, err := c.ReadRegister(ctx, 1)
			if v != 0x11010 {
				t.Errorf("register 1 is 0x%x", v)
			}
			return err
		},
		func() error { return c.ClearBreakpoint(ctx, 0x11010, 4) },
		func() error { return c.Step(ctx) },
		func() error { return c.WriteRegister(ctx, 17, 0xffff_ffff_ffff_0a02) },
		func() error { return c.Detach(ctx) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.conn.Write([]byte("x")); err == nil {
		t.Error("the connection is open after Detach")
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	read := func(ctx context.Context, c *Client) error { _, err := c.ReadRegister(ctx, 0); return err }
	run := func(ctx context.Context, c *Client) error { return c.Continue(ctx) }
	set := func(ctx context.Context, c *Client) error { return c.SetBreakpoint(ctx, 0x10, 4) }
	detach := func(ctx context.Context, c *Client) error { return c.Detach(ctx) }
	for _, test := range []struct {
		name   string
		do     func(context.Context, *Client) error
		want   string
		answer string
		err    error
	}{
		{"stopped at a breakpoint", run, "c", ack("T05thread:p01.01;"), nil},
		{"stopped, short form", run, "c", ack("S05"), nil},
		{"paused by the operator", run, "c", ack("T02thread:p01.01;"), ErrStopped},
		{"QEMU shuts down", run, "c", ack("W00"), ErrExited},
		{"guest killed", run, "c", ack("X0f"), ErrExited},
		{"QEMU dies", run, "c", "+", ErrExited},
		{"QEMU dies inside a packet", run, "c", "+$T05", ErrExited},
		{"stop reply cut short", run, "c", ack("T0"), ErrProtocol},
		{"stop reply without digits", run, "c", ack("Tzz"), ErrProtocol},
		{"unknown stop reply", run, "c", ack("Q05"), ErrProtocol},
		{"register", read, "p0", ack("0000000180000000"), nil},
		{"register unknown", read, "p0", ack(""), ErrStub},
		{"register refused", read, "p0", ack("E14"), ErrStub},
		{"register of 4 bytes", read, "p0", ack("80000000"), ErrProtocol},
		{"register no number", read, "p0", ack("xxxxxxxxxxxxxxxx"), ErrProtocol},
		{"breakpoint refused", set, "Z0,10,4", ack("E22"), ErrStub},
		{"breakpoint answered in words", set, "Z0,10,4", ack("fine"), ErrProtocol},
		{"no acknowledgement", set, "Z0,10,4", string(encode("OK")), ErrProtocol},
		{"asked to say it again", set, "Z0,10,4", "-", ErrProtocol},
		{"bad checksum", set, "Z0,10,4", "+$OK#00", ErrProtocol},
		{"detached", detach, "D", ack("OK"), nil},
		{"detach refused", detach, "D", ack("E01"), ErrStub},
		{"detached guest ended at once", detach, "D", "+", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, c := greeted(t, exchange{test.want, test.answer})
			if err := test.do(ctx, c); !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("error %v, want %v", err, test.err)
			}
		})
	}
}

func TestGreetingFails(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for name, exchanges := range map[string][]exchange{
		"no stub":               nil,
		"no target description": {greeting[0], {greeting[1].want, ack("")}},
		"another protocol":      {{greeting[0].want, "HTTP/1.0 400"}},
	} {
		if _, err := New(ctx, script(t, exchanges...)); err == nil {
			t.Errorf("%s: greeted", name)
		}
	}
}

// A stub that says nothing holds the client only as long as the context lives.
func TestContextInterrupts(t *testing.T) {
	t.Parallel()
	silent := func(t *testing.T) net.Conn {
		client, stub := net.Pipe()
		t.Cleanup(func() { client.Close(); stub.Close() })
		go func() { // reads and never answers; ends with the connection
			for b := make([]byte, 64); ; {
				if _, err := stub.Read(b); err != nil {
					return
				}
			}
		}()
		return client
	}
	t.Run("deadline", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := New(ctx, silent(t)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("cancelled with a cause", func(t *testing.T) {
		t.Parallel()
		cause := errors.New("hostagent ended")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
		if _, err := New(ctx, silent(t)); !errors.Is(err, cause) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("over before the first word", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := New(ctx, silent(t)); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}
