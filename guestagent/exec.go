package main

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/secexec/secexec/proto/guestagent/v1"
)

// Bounds of exec.
const (
	maxPrograms = 4
	window      = 16      // messages with bytes that the other end has not taken
	maxInput    = 4 << 10 // bytes of one
	outputPiece = 8 << 10 // bytes
)

var errTooMany = errors.New("too many programs run already")

// program is one that the owner runs. With a terminal errors come on output, too.
type program interface {
	io.Writer              // its input; may block
	closeInput()           // its input's end
	outputs() []io.Reader  // standard output, then standard error unless there is a terminal
	resize(rows, cols int) // of its terminal
	signal(n int)
	kill()     // with all that it started
	wait() int // for the end of all of it: its status, 128+n for signal n
	close()    // once, after wait and the outputs' end
}

// converse is the conversation with a program: until its end, or until the client
// goes, which ends it.
//
//	client's messages ─▶ receive ─▶ input, a window of messages ─▶ feed ─▶ program
//	client ◀─ send, a window of messages ◀─ pass, for each output ◀─ program
func converse(ctx context.Context, p program, stream guestagentv1.Guestagent_ExecServer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &conversation{p: p, stream: stream, input: make(chan []byte, window), ahead: make(chan struct{}, window)}
	stop := context.AfterFunc(ctx, p.kill)
	go c.receive(cancel)
	go c.feed(ctx)
	var out sync.WaitGroup
	for i, r := range p.outputs() {
		out.Go(func() { c.pass(ctx, r, i == 1) })
	}
	code := uint32(p.wait())
	stop()
	out.Wait()
	p.close()
	return stream.Send(&guestagentv1.ExecOutput{Status: &code})
}

type conversation struct {
	p      program
	stream guestagentv1.Guestagent_ExecServer
	input  chan []byte   // closed at its end
	ahead  chan struct{} // an item for each message with output that is not taken
}

// pass hands on an output to its end, also when nobody takes it any more.
func (c *conversation) pass(ctx context.Context, r io.Reader, isError bool) {
	buf := make([]byte, outputPiece)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			m := &guestagentv1.ExecOutput{Stdout: buf[:n]}
			if isError {
				m = &guestagentv1.ExecOutput{Stderr: buf[:n]}
			}
			select {
			case c.ahead <- struct{}{}:
				_ = c.stream.Send(m) // a client that is gone ends the context
			case <-ctx.Done():
			}
		}
		if err != nil {
			return
		}
	}
}

// receive takes the client's messages until it goes, and never waits for the
// program. Who breaks the rules is as one that goes: the program is ended.
func (c *conversation) receive(cancel func()) {
	defer cancel()
	ended := false
	for {
		m, err := c.stream.Recv()
		if err != nil {
			return
		}
		if m.Size != nil {
			c.p.resize(int(m.Size.Rows), int(m.Size.Columns))
		}
		if m.Signal > 0 && m.Signal <= 64 {
			c.p.signal(int(m.Signal))
		}
		for range min(m.Taken, window) {
			select {
			case <-c.ahead:
			default:
			}
		}
		if ended || len(m.Stdin) > maxInput {
			if len(m.Stdin) > 0 {
				return
			}
			continue
		}
		if len(m.Stdin) > 0 {
			select {
			case c.input <- m.Stdin:
			default: // beyond the window
				return
			}
		}
		if ended = m.End; ended {
			close(c.input)
		}
	}
}

// feed gives the program its input and tells the client what it took.
func (c *conversation) feed(ctx context.Context) {
	reads := true
	for {
		select {
		case b, more := <-c.input:
			if !more {
				c.p.closeInput()
				return
			}
			if reads {
				_, err := c.p.Write(b)
				reads = err == nil
			}
			_ = c.stream.Send(&guestagentv1.ExecOutput{Taken: 1})
		case <-ctx.Done():
			return
		}
	}
}
