package api

import (
	"context"
	"net"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Bounds of the relay. It holds a window of messages of the client's and one
// piece of the guest's: who does not take what is his holds up who sends.
const (
	relayPiece  = 16 << 10
	relayWindow = 16               // messages that the other end has not taken
	relayStall  = 2 * time.Minute  // for the guest to take a piece
	relayName   = 10 * time.Second // for the client to name a guest
)

// channelService implements hostagentv1.ChannelService beside a Service.
type channelService struct{ *Service }

var _ hostagentv1.ChannelService = channelService{}

// Connect implements the service.
func (s channelService) Connect(ctx context.Context, stream hostagentv1.Channel_ConnectServer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	name, err := named(stream)
	if err != nil {
		return toStatus(err)
	}
	g, err := s.find(ctx, name)
	if err != nil {
		return toStatus(err)
	}
	conn, err := g.Channel(ctx)
	if err != nil {
		return toStatus(err)
	}
	r := &relay{conn: conn, stream: stream, ahead: make(chan struct{}, relayWindow)}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	go func() { // ends with this call, whose end is the stream's
		defer cancel()
		r.toGuest(ctx)
	}()
	if err := stream.Send(&hostagentv1.ConnectBytes{}); err != nil {
		return err
	}
	return r.toClient(ctx)
}

// named is the guest that the client's first message names.
func named(stream hostagentv1.Channel_ConnectServer) (string, error) {
	type message struct {
		m   *hostagentv1.ConnectBytes
		err error
	}
	first := make(chan message, 1)
	go func() { // ends with this call, whose end is the stream's
		m, err := stream.Recv()
		first <- message{m, err}
	}()
	select {
	case r := <-first:
		return r.m.GetName(), r.err
	case <-time.After(relayName):
		return "", fault.New(fault.BadRequest, "no guest was named within %s", relayName)
	}
}

// relay is one connection of a client to a guest.
type relay struct {
	conn   net.Conn
	stream hostagentv1.Channel_ConnectServer
	ahead  chan struct{} // an item for each message that the client has not taken
}

// toClient passes on what the guest sends, until either end is closed.
func (r *relay) toClient(ctx context.Context) error {
	buf := make([]byte, relayPiece)
	for {
		n, err := r.conn.Read(buf)
		if err != nil {
			return nil
		}
		select {
		case r.ahead <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		if err := r.stream.Send(&hostagentv1.ConnectBytes{Data: buf[:n]}); err != nil {
			return err
		}
	}
}

// toGuest passes on what the client sends until it ends, sends what is no piece,
// or the guest takes nothing.
func (r *relay) toGuest(ctx context.Context) {
	for {
		m, err := r.stream.Recv()
		if err != nil || len(m.Data) > relayPiece {
			return
		}
		for range min(m.Taken, relayWindow) {
			select {
			case <-r.ahead:
			default:
			}
		}
		if len(m.Data) == 0 {
			continue
		}
		if r.conn.SetWriteDeadline(time.Now().Add(relayStall)) != nil || ctx.Err() != nil {
			return
		}
		if _, err := r.conn.Write(m.Data); err != nil {
			return
		}
		if r.stream.Send(&hostagentv1.ConnectBytes{Taken: 1}) != nil {
			return
		}
	}
}
