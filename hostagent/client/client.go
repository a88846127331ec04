// Package client calls hostagent.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// How long hostagent lets a guest power off, unless told otherwise and at most.
const (
	StopTimeout    = 30 * time.Second
	MaxStopTimeout = time.Hour
)

// Deadlines of calls.
const (
	dialTimeout = 5 * time.Second
	callTimeout = 20 * time.Second
)

// ErrClosed says that the connection ended in the middle of a call.
var ErrClosed = errors.New("hostagent closed the connection: it ended, or does not admit you (root and members of its groups may call)")

// Client is a connection to a hostagent. Its owner calls Close.
type Client struct {
	conn *ttrpc.Client
	api  hostagentv1.HostagentClient
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// call makes a unary call with a deadline and gives errors their codes back.
func call[Q, A any](ctx context.Context, timeout time.Duration, f func(context.Context, Q) (A, error), request Q) (A, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	answer, err := f(ctx, request)
	return answer, fromStatus(err)
}

// Create takes over a bundle; copying it takes as long as its disks are large.
func (c *Client) Create(ctx context.Context, r *hostagentv1.CreateRequest) (*hostagentv1.Guest, error) {
	return call(ctx, 0, c.api.Create, r)
}

// Start begins a launch.
func (c *Client) Start(ctx context.Context, name string) (*hostagentv1.Guest, error) {
	return call(ctx, callTimeout, c.api.Start, &hostagentv1.StartRequest{Name: name})
}

// Stop asks a guest to power off and waits for its end. A timeout of 0 or less is
// hostagent's own, StopTimeout.
func (c *Client) Stop(ctx context.Context, name string, timeout time.Duration) (*hostagentv1.Guest, error) {
	if timeout <= 0 {
		timeout = StopTimeout
	}
	timeout = min(timeout, MaxStopTimeout)
	return call(ctx, timeout+callTimeout, c.api.Stop, &hostagentv1.StopRequest{Name: name, TimeoutMs: uint32(timeout.Milliseconds())})
}

// Kill ends a guest at once.
func (c *Client) Kill(ctx context.Context, name string) (*hostagentv1.Guest, error) {
	return call(ctx, callTimeout, c.api.Kill, &hostagentv1.NameRequest{Name: name})
}

// Delete removes a guest that does not run.
func (c *Client) Delete(ctx context.Context, name string) error {
	_, err := call(ctx, callTimeout, c.api.Delete, &hostagentv1.NameRequest{Name: name})
	return err
}

// Get returns a guest.
func (c *Client) Get(ctx context.Context, name string) (*hostagentv1.Guest, error) {
	return call(ctx, callTimeout, c.api.Get, &hostagentv1.NameRequest{Name: name})
}

// List returns all guests by name.
func (c *Client) List(ctx context.Context) ([]*hostagentv1.Guest, error) {
	answer, err := call(ctx, callTimeout, c.api.List, &hostagentv1.ListRequest{})
	if err != nil {
		return nil, err
	}
	return answer.Guests, nil
}

// Console reads from a guest's console log.
func (c *Client) Console(ctx context.Context, name string, offset int64, limit int) (*hostagentv1.ConsoleResponse, error) {
	return call(ctx, callTimeout, c.api.Console, &hostagentv1.ConsoleRequest{Name: name, Offset: offset, Limit: uint32(limit)})
}

// Challenge relays a nonce to a guest and returns its signed report.
func (c *Client) Challenge(ctx context.Context, name string, nonce []byte) ([]byte, error) {
	answer, err := call(ctx, callTimeout, c.api.Challenge, &hostagentv1.ChallengeRequest{Name: name, Nonce: nonce})
	if err != nil {
		return nil, err
	}
	return answer.Report, nil
}

// NodeInfo returns facts of the node.
func (c *Client) NodeInfo(ctx context.Context) (*hostagentv1.NodeInfoResponse, error) {
	return call(ctx, callTimeout, c.api.NodeInfo, &hostagentv1.NodeInfoRequest{})
}

// Stream is a subscription to events.
type Stream struct {
	s hostagentv1.Hostagent_EventsClient
}

// Events subscribes to the events of a guest, or with "" of all. When it
// returns, nothing from then on is missed; the context ends the subscription.
func (c *Client) Events(ctx context.Context, name string) (*Stream, error) {
	s, err := c.api.Events(ctx, &hostagentv1.EventsRequest{Name: name})
	if err != nil {
		return nil, fromStatus(err)
	}
	if _, err := s.Recv(); err != nil { // the greeting
		return nil, fromStatus(err)
	}
	return &Stream{s}, nil
}

// Next waits for the next event.
func (s *Stream) Next() (*hostagentv1.Event, error) {
	e, err := s.s.Recv()
	return e, fromStatus(err)
}

// fromStatus turns a status with a failure in its details back into a
// *fault.Error.
func fromStatus(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, io.EOF) {
		return fmt.Errorf("call hostagent: %w", ErrClosed)
	}
	if errors.Is(err, ErrTLS) {
		return fmt.Errorf("call hostagent: %w", err)
	}
	if err := refusal(err); err != nil {
		return fmt.Errorf("call hostagent: %w", err)
	}
	if st, ok := status.FromError(err); ok {
		for _, d := range st.Details() {
			if f, ok := d.(*hostagentv1.Failure); ok {
				return &fault.Error{Code: fault.Code(f.Code), Message: f.Message, Remedy: f.Remedy}
			}
		}
		return fmt.Errorf("call hostagent: %s", st.Message())
	}
	return fmt.Errorf("call hostagent: %w", err)
}
