package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// How long a call waits for a hostagent that is being started anew, and between
// its tries.
const (
	hostPatience = 30 * time.Second
	hostPause    = 50 * time.Millisecond
	hostMaxPause = time.Second
)

// Host makes calls to the node's hostagent, over a connection for each: few are
// made, and none has to know what became of the one before.
type Host struct {
	Address  string        // hostagent's socket
	Patience time.Duration // 0: hostPatience
}

// do makes a call that may be repeated. While hostagent is away it waits.
func (h *Host) do(ctx context.Context, call func(context.Context, *client.Client) error) error {
	patience := h.Patience
	if patience == 0 {
		patience = hostPatience
	}
	end := time.Now().Add(patience)
	for pause := hostPause; ; pause = min(2*pause, hostMaxPause) {
		c, err := client.Dial(ctx, h.Address, nil)
		if err == nil {
			err = call(ctx, c)
			c.Close()
		}
		if !errors.Is(err, client.ErrNoHostagent) && !errors.Is(err, client.ErrClosed) || time.Now().Add(pause).After(end) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
	}
}

// get is do for calls with an answer.
func get[A any](ctx context.Context, h *Host, call func(context.Context, *client.Client) (A, error)) (answer A, err error) {
	err = h.do(ctx, func(ctx context.Context, c *client.Client) (err error) {
		answer, err = call(ctx, c)
		return err
	})
	return answer, err
}

func (h *Host) create(ctx context.Context, r *hostagentv1.CreateRequest) (*hostagentv1.Guest, error) {
	return get(ctx, h, func(ctx context.Context, c *client.Client) (*hostagentv1.Guest, error) { return c.Create(ctx, r) })
}

func (h *Host) start(ctx context.Context, guest, id string) (*hostagentv1.Guest, error) {
	return get(ctx, h, func(ctx context.Context, c *client.Client) (*hostagentv1.Guest, error) {
		return c.Start(ctx, guest, id)
	})
}

func (h *Host) stop(ctx context.Context, guest string, timeout time.Duration) (*hostagentv1.Guest, error) {
	return get(ctx, h, func(ctx context.Context, c *client.Client) (*hostagentv1.Guest, error) {
		return c.Stop(ctx, guest, timeout)
	})
}

func (h *Host) get(ctx context.Context, guest string) (*hostagentv1.Guest, error) {
	return get(ctx, h, func(ctx context.Context, c *client.Client) (*hostagentv1.Guest, error) { return c.Get(ctx, guest) })
}

// reader reads a console over a connection that it keeps: it asks often. One
// goroutine uses it.
type reader struct {
	host *Host
	c    *client.Client // nil: not connected
}

// Console implements console.Source.
func (r *reader) Console(ctx context.Context, guest string, offset int64, limit int) (answer *hostagentv1.ConsoleResponse, err error) {
	if r.c == nil {
		if r.c, err = client.Dial(ctx, r.host.Address, nil); err != nil {
			return nil, err
		}
	}
	if answer, err = r.c.Console(ctx, guest, offset, limit); err != nil {
		r.close()
	}
	return answer, err
}

func (r *reader) close() {
	if r.c != nil {
		r.c.Close()
		r.c = nil
	}
}

func (h *Host) usage(ctx context.Context, guest string) (*hostagentv1.UsageResponse, error) {
	return get(ctx, h, func(ctx context.Context, c *client.Client) (*hostagentv1.UsageResponse, error) {
		return c.Usage(ctx, guest)
	})
}

// kill ends a guest. One that does not run any more is no error.
func (h *Host) kill(ctx context.Context, guest string) error {
	err := h.do(ctx, func(ctx context.Context, c *client.Client) error {
		_, err := c.Kill(ctx, guest)
		return err
	})
	if is(err, fault.WrongState) || is(err, fault.NoGuest) {
		return nil
	}
	return err
}

// remove ends and deletes a guest. One that is gone is no error.
func (h *Host) remove(ctx context.Context, guest string) error {
	g, err := h.get(ctx, guest)
	if err == nil && g.Pid != 0 {
		err = h.kill(ctx, guest)
	}
	if err == nil {
		err = h.do(ctx, func(ctx context.Context, c *client.Client) error { return c.Delete(ctx, guest) })
	}
	if is(err, fault.NoGuest) {
		return nil
	}
	return err
}

// follow calls seen with each state of a guest, the present one first, until seen
// has seen enough, the guest is deleted (seen gets nil) or the context ends. It
// outlasts hostagents.
func (h *Host) follow(ctx context.Context, guest string, seen func(*hostagentv1.Guest) (enough bool)) error {
	for pause := hostPause; ; pause = min(2*pause, hostMaxPause) {
		enough, err := h.followOnce(ctx, guest, seen)
		if enough || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if is(err, fault.NoGuest) {
			seen(nil)
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (h *Host) followOnce(ctx context.Context, guest string, seen func(*hostagentv1.Guest) bool) (enough bool, err error) {
	c, err := client.Dial(ctx, h.Address, nil)
	if err != nil {
		return false, err
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := c.Events(ctx, guest)
	if err != nil {
		return false, err
	}
	g, err := c.Get(ctx, guest)
	if err != nil {
		return false, err
	}
	for !seen(g) {
		e, err := events.Next()
		if err != nil {
			return false, err
		}
		if g = e.Guest; e.Deleted {
			seen(nil)
			return true, nil
		}
	}
	return true, nil
}

func is(err error, code fault.Code) bool {
	var f *fault.Error
	return errors.As(err, &f) && f.Code == code
}
