package api

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// clientStream is a relay's client: what it sends, and what it is sent.
type clientStream struct {
	ctx  context.Context
	says chan *hostagentv1.ConnectBytes
	told chan *hostagentv1.ConnectBytes
}

func (s *clientStream) Send(m *hostagentv1.ConnectBytes) error {
	m = &hostagentv1.ConnectBytes{Data: bytes.Clone(m.Data), Taken: m.Taken}
	select {
	case s.told <- m:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s *clientStream) Recv() (*hostagentv1.ConnectBytes, error) {
	select {
	case m, ok := <-s.says:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *clientStream) SendMsg(any) error { panic("not called") }
func (s *clientStream) RecvMsg(any) error { panic("not called") }

func newRelay(t *testing.T, ctx context.Context) (r *relay, client *clientStream, guest net.Conn) {
	conn, guest := net.Pipe()
	t.Cleanup(func() { conn.Close(); guest.Close() })
	client = &clientStream{ctx: ctx, says: make(chan *hostagentv1.ConnectBytes, 64), told: make(chan *hostagentv1.ConnectBytes, 64)}
	return &relay{conn: conn, stream: client, ahead: make(chan struct{}, relayWindow)}, client, guest
}

// A client that takes nothing is sent a window of messages, and the guest waits.
func TestRelayWaitsForItsClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, client, guest := newRelay(t, ctx)
		go r.toGuest(ctx)
		go r.toClient(ctx)
		sent := 0
		go func() {
			for {
				if _, err := guest.Write([]byte("x")); err != nil {
					return
				}
				sent++
			}
		}()
		synctest.Wait()
		if len(client.told) != relayWindow || sent != relayWindow+1 { // one in the relay's hands
			t.Errorf("%d messages were sent, the guest wrote %d", len(client.told), sent)
		}
		client.says <- &hostagentv1.ConnectBytes{Taken: 3}
		client.says <- &hostagentv1.ConnectBytes{Taken: 1 << 31} // more than there are
		synctest.Wait()
		if len(client.told) < relayWindow+3 || len(client.told) > 2*relayWindow+3 {
			t.Errorf("after acknowledgement: %d messages", len(client.told))
		}
		cancel()
		guest.Close()
		r.conn.Close()
		synctest.Wait()
	})
}

// A guest that takes nothing ends the relay in the end, and pieces beyond the
// bound at once.
func TestRelayWaitsForItsGuest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		size int
		take time.Duration
	}{"stalled guest": {5, relayStall}, "a large piece": {relayPiece + 1, 0}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r, client, _ := newRelay(t, t.Context())
				client.says <- &hostagentv1.ConnectBytes{Data: make([]byte, c.size)}
				start := time.Now()
				r.toGuest(t.Context())
				if took := time.Since(start); took != c.take || len(client.told) != 0 {
					t.Errorf("after %v, %d messages", took, len(client.told))
				}
			})
		})
	}
}

// What goes through comes out the same, acknowledged piece by piece.
func TestRelayPassesOn(t *testing.T) {
	t.Parallel()
	r, client, guest := newRelay(t, t.Context())
	go r.toGuest(t.Context())
	go r.toClient(t.Context())
	go io.Copy(guest, guest)
	want := bytes.Repeat([]byte("0123456789"), 1000)
	client.says <- &hostagentv1.ConnectBytes{Data: want}
	var got []byte
	taken := uint32(0)
	for len(got) < len(want) || taken == 0 {
		select {
		case m := <-client.told:
			got, taken = append(got, m.Data...), taken+m.Taken
			if len(m.Data) > 0 {
				client.says <- &hostagentv1.ConnectBytes{Taken: 1}
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%d bytes came back, %d taken", len(got), taken)
		}
	}
	if !bytes.Equal(got, want) || taken != 1 {
		t.Errorf("%d bytes came back, %d taken", len(got), taken)
	}
}
