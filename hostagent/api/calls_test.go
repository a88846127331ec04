package api

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/secexec/secexec/hostagent/fault"
)

func TestOutcome(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"ok": nil, "H204": toStatus(fault.New(fault.NoGuest, "no")), "cancelled": context.Canceled, "late": context.DeadlineExceeded,
		"other": errors.New("x"),
		"H217":  toStatus(fault.New(fault.Storage, "full")), // ResourceExhausted with a code of its own
	} {
		if got := outcome(err); got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
	}
}

// Each call is counted; of many refusals in a second some are logged, and the
// next line says how many were not.
func TestCalls(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	counted := make(map[string]int)
	c := &Calls{Log: slog.New(slog.NewTextHandler(&log, nil)), Count: func(method, code string, _ time.Duration) { counted[method+" "+code]++ }}
	call := func(err error) {
		_, got := c.unary(t.Context(), nil, &ttrpc.UnaryServerInfo{FullMethod: "/secexec.hostagent.v1.Hostagent/Get"},
			func(context.Context, func(any) error) (any, error) { return nil, err })
		if got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
	call(nil)
	call(context.Canceled)
	refused := toStatus(fault.New(fault.NoGuest, "there is no guest %q", "a\nlevel=ERROR"))
	const n = 10 * maxRefusals
	for range n {
		call(refused)
	}
	if counted["Get ok"] != 1 || counted["Get cancelled"] != 1 || counted["Get H204"] != n {
		t.Errorf("%v", counted)
	}
	lines := strings.Count(log.String(), `event=call-refused caller="uid 4294967295 from nowhere" method=Get code=H204`)
	if all := strings.Count(log.String(), "\n"); lines < maxRefusals || lines > n/2 || all != lines { // a slow machine takes a few seconds
		t.Errorf("%d lines, %d of refusals", all, lines)
	}
	c.second = 0
	call(refused)
	if !strings.Contains(log.String(), "unlogged=") || strings.HasSuffix(log.String(), "unlogged=0\n") {
		t.Errorf("last line of\n%s", log.String())
	}
}
