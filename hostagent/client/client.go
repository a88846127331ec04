// Package client calls hostagent.
package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
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
	conn     *ttrpc.Client
	api      hostagentv1.HostagentClient
	redial   func(context.Context) (*Client, error)
	answered bool // a call was answered
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
// With a request id it is repeated when hostagent is started anew meanwhile.
func (c *Client) Create(ctx context.Context, r *hostagentv1.CreateRequest) (*hostagentv1.Guest, error) {
	create := func() (*hostagentv1.Guest, error) { return call(ctx, 0, c.api.Create, r) }
	if r.RequestId == "" {
		return create()
	}
	return again(ctx, c, create)
}

// Start begins a launch. With an id of its own it is repeated when hostagent is
// started anew meanwhile, and starts the guest once.
func (c *Client) Start(ctx context.Context, name, id string) (*hostagentv1.Guest, error) {
	start := func() (*hostagentv1.Guest, error) {
		return call(ctx, callTimeout, c.api.Start, &hostagentv1.StartRequest{Name: name, RequestId: id})
	}
	if id == "" {
		return start()
	}
	return again(ctx, c, start)
}

// NewRequestID makes an id for a request that may be repeated.
func NewRequestID() string { return rand.Text() }

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

// Console reads from a guest's console log, also from a hostagent that is started
// anew meanwhile.
func (c *Client) Console(ctx context.Context, name string, offset int64, limit int) (*hostagentv1.ConsoleResponse, error) {
	return again(ctx, c, func() (*hostagentv1.ConsoleResponse, error) {
		return call(ctx, callTimeout, c.api.Console, &hostagentv1.ConsoleRequest{Name: name, Offset: offset, Limit: uint32(limit)})
	})
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

func now() int64 { return time.Now().UnixMilli() }

// fromStatus turns a status with a failure in its details back into a
// *fault.Error.
func fromStatus(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, io.EOF) {
		return fmt.Errorf("call hostagent: %w", ErrClosed)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("call hostagent: no answer in time: %w", err)
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
		if st.Code() == codes.Canceled { // by hostagent's end; the caller's context says so itself
			return fmt.Errorf("call hostagent: %w", ErrClosed)
		}
		return fmt.Errorf("call hostagent: %s", st.Message())
	}
	return fmt.Errorf("call hostagent: %w", err)
}
