package api

import (
	"context"
	"errors"
	"log/slog"
	"path"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/journal"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Refusals are logged, but a client that asks for them all day does not fill
// the journal: so many in a second.
const maxRefusals = 20

// Calls watches the API: every call is counted, refusals are logged.
type Calls struct {
	Log    *slog.Logger
	Count  func(method, code string, took time.Duration) // of a call
	Stream func(method, code string)                     // a stream ended

	mu       sync.Mutex
	second   int64
	refusals int
	unlogged int // since the last one that was logged
}

// unary is an interceptor of calls; it sees what clients see.
func (c *Calls) unary(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	if c == nil {
		return method(ctx, unmarshal)
	}
	start := time.Now()
	answer, err := method(ctx, unmarshal)
	name, code := path.Base(info.FullMethod), outcome(err)
	c.Count(name, code, time.Since(start))
	if refusal(code) {
		c.refused(CallerOf(ctx), name, code, err)
	}
	return answer, err
}

// watched is the service with its streams watched, for which ttrpc has no
// interceptor.
type watched struct {
	*Service
	calls *Calls
}

// Events implements the service.
func (w watched) Events(ctx context.Context, r *hostagentv1.EventsRequest, stream hostagentv1.Hostagent_EventsServer) error {
	err := w.Service.Events(ctx, r, stream)
	if w.calls == nil {
		return err
	}
	code := outcome(err)
	// Whoever asks for what this hostagent had and has no more was too slow.
	if code == string(fault.EventsGone) && (r.Epoch == "" || r.Epoch == w.Fleet.Hub.Epoch()) {
		code = "slow"
	}
	w.calls.Stream("Events", code)
	switch {
	case code == "slow":
		w.calls.Log.Warn("client that did not read its events cut off", journal.SlowReader, "caller", CallerOf(ctx), "method", "Events")
	case refusal(code):
		w.calls.refused(CallerOf(ctx), "Events", code, err)
	}
	return err
}

// refused logs a refusal unless there were many within this second.
func (c *Calls) refused(caller *Caller, method, code string, err error) {
	c.mu.Lock()
	if now := time.Now().Unix(); now != c.second {
		c.second, c.refusals = now, 0
	}
	c.refusals++
	if c.refusals > maxRefusals {
		c.unlogged++
		c.mu.Unlock()
		return
	}
	unlogged := c.unlogged
	c.unlogged = 0
	c.mu.Unlock()
	if st, ok := status.FromError(err); ok {
		err = errors.New(st.Message())
	}
	c.Log.Info("call refused", journal.Refused, "caller", caller, "method", method, "code", code, "error", err, "unlogged", unlogged)
}

// refusal tells whether a code is hostagent's answer, and not how a call ended
// by itself.
func refusal(code string) bool {
	return code != "ok" && code != "cancelled" && code != "late" && code != "slow"
}

// outcome is an error's code, "ok", or for what has none how the call ended:
// cancelled, late (beyond its deadline), other.
func outcome(err error) string {
	st, isStatus := status.FromError(err)
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, context.Canceled) || isStatus && st.Code() == codes.Canceled:
		return "cancelled"
	case errors.Is(err, context.DeadlineExceeded):
		return "late"
	case !isStatus:
		return "other"
	}
	for _, d := range st.Details() {
		if f, ok := d.(*hostagentv1.Failure); ok {
			return f.Code
		}
	}
	return "other"
}
