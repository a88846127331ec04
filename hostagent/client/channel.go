package client

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Bounds that hostagent sets.
const (
	channelPiece  = 16 << 10 // bytes of a message
	channelWindow = 16       // messages that the other end has not taken
)

// Channel connects to a guest's device of the owner's channel. hostagent can read
// what goes over it: package channel of proto brings the TLS. The stream lives
// until it is closed or the context ends.
func (c *Client) Channel(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := hostagentv1.NewChannelClient(c.conn).Connect(ctx)
	if err == nil {
		err = stream.Send(&hostagentv1.ConnectBytes{Name: name})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("connect to guest %s: %w", name, fromStatus(err))
	}
	s := &channelStream{stream: stream, ctx: ctx, cancel: cancel, in: make(chan []byte, channelWindow), ahead: make(chan struct{}, channelWindow)}
	go s.receive()
	return s, nil
}

type channelStream struct {
	stream hostagentv1.Channel_ConnectClient
	mu     sync.Mutex // held while the stream is written to
	ctx    context.Context
	cancel context.CancelFunc
	in     chan []byte   // closed at the end
	ahead  chan struct{} // an item for each message that hostagent has not taken
	rest   []byte
}

// receive takes hostagent's messages until the stream ends.
func (s *channelStream) receive() {
	defer close(s.in)
	defer s.cancel()
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return
		}
		for range min(m.Taken, channelWindow) {
			select {
			case <-s.ahead:
			default:
			}
		}
		if len(m.Data) == 0 {
			continue
		}
		select {
		case s.in <- m.Data:
		default: // beyond the window
			return
		}
	}
}

// Read implements io.Reader.
func (s *channelStream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		b, more := <-s.in
		if !more {
			return 0, io.EOF
		}
		s.rest = b
		_ = s.send(&hostagentv1.ConnectBytes{Taken: 1}) // an end shows at the next Read
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Write implements io.Writer.
func (s *channelStream) Write(p []byte) (done int, err error) {
	for len(p) > 0 {
		select {
		case s.ahead <- struct{}{}:
		case <-s.ctx.Done():
			return done, io.ErrClosedPipe
		}
		n := min(len(p), channelPiece)
		if err := s.send(&hostagentv1.ConnectBytes{Data: p[:n]}); err != nil {
			return done, fromStatus(err)
		}
		done, p = done+n, p[n:]
	}
	return done, nil
}

func (s *channelStream) send(m *hostagentv1.ConnectBytes) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Send(m)
}

// Close ends the relay. hostagent is told, unless a write is stuck; then the
// connection's end tells it.
func (s *channelStream) Close() error {
	if s.mu.TryLock() {
		_ = s.stream.CloseSend()
		s.mu.Unlock()
	}
	s.cancel()
	return nil
}
