package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// operation is something that hostagent is killed in the middle of.
type operation struct {
	name   string
	before string // state of the guest to begin with, "": there is none
	policy string
	do     func(ctx context.Context, n *node, c *client.Client, id string) error
	after  []string // states that the next hostagent may find or bring about, with a failure's code
	finish string   // what the same call, repeated, makes of it; "": it is not repeated
}

var operations = []operation{
	{
		name: "create", before: "",
		do: func(ctx context.Context, n *node, c *client.Client, id string) error {
			_, err := c.Create(ctx, &hostagentv1.CreateRequest{Bundle: n.bundle, RequestId: id})
			return err
		},
		after: []string{"", "created"}, finish: "created",
	},
	{
		name: "start", before: "stopped",
		do: func(ctx context.Context, _ *node, c *client.Client, id string) error {
			if _, err := c.Start(ctx, "g", id); err != nil {
				return err
			}
			_, err := becomes(ctx, c, "g", "ready", "failed")
			return err
		},
		after: []string{"stopped", "failed H213", "ready"},
	},
	{
		name: "start of a waiting guest", before: "waiting", policy: "always:99",
		do: func(ctx context.Context, _ *node, c *client.Client, _ string) error {
			_, err := becomes(ctx, c, "g", "ready")
			return err
		},
		after: []string{"ready"},
	},
	{
		name: "panic, restart by policy", before: "ready", policy: "on-failure:99",
		do: func(ctx context.Context, n *node, c *client.Client, _ string) error {
			if err := n.happens(ctx, c, syscall.SIGUSR2); err != nil {
				return err
			}
			_, err := becomes(ctx, c, "g", "waiting")
			return err
		},
		after: []string{"ready"},
	},
	{
		name: "reboot", before: "ready",
		do: func(ctx context.Context, n *node, c *client.Client, _ string) error {
			before, err := c.Get(ctx, "g")
			if err == nil {
				err = n.happens(ctx, c, syscall.SIGUSR1)
			}
			for g := before; err == nil && g.Pid == before.Pid; time.Sleep(time.Millisecond) {
				g, err = becomes(ctx, c, "g", "ready", "failed")
			}
			return err
		},
		// Killed before the reboot is stored, hostagent can't tell it from QEMU's death.
		after: []string{"failed H218", "failed H213", "ready"},
	},
	{
		name: "guest powers off", before: "ready",
		do: func(ctx context.Context, n *node, c *client.Client, _ string) error {
			if err := n.happens(ctx, c, syscall.SIGHUP); err != nil {
				return err
			}
			_, err := becomes(ctx, c, "g", "stopped")
			return err
		},
		after: []string{"failed H218", "stopped"},
	},
	{
		name: "stop", before: "ready",
		do: func(ctx context.Context, _ *node, c *client.Client, _ string) error {
			_, err := c.Stop(ctx, "g", 0)
			return err
		},
		after: []string{"ready", "stopped"}, finish: "stopped",
	},
	{
		name: "kill", before: "ready",
		do: func(ctx context.Context, _ *node, c *client.Client, _ string) error {
			_, err := c.Kill(ctx, "g")
			return err
		},
		after: []string{"ready", "stopped"}, finish: "stopped",
	},
	{
		name: "delete", before: "stopped",
		do: func(ctx context.Context, _ *node, c *client.Client, _ string) error {
			return c.Delete(ctx, "g")
		},
		after: []string{"", "stopped"}, finish: "",
	},
	{
		name: "hostagent's own start", before: "ready",
		do: func(_ context.Context, n *node, _ *client.Client, _ string) error {
			n.kill()
			n.boot()
			return n.do(func(ctx context.Context, c *client.Client) error {
				_, err := becomes(ctx, c, "g", "ready")
				return err
			})
		},
		after: []string{"ready"},
	},
}

// happens makes something happen in the guest.
func (n *node) happens(ctx context.Context, c *client.Client, what syscall.Signal) error {
	g, err := c.Get(ctx, "g")
	if err != nil {
		return err
	}
	return syscall.Kill(int(g.Pid), what)
}

// state is a guest's state with its failure's code, "" for none.
func state(g *hostagentv1.Guest) string {
	if g == nil {
		return ""
	}
	if g.Failure != nil && g.State == "failed" {
		return g.State + " " + g.Failure.Code
	}
	return g.State
}

// hostagent is killed before and after everything that it stores, starts, takes
// over or removes, in every operation. The next one finds what is true, and has
// one QEMU for each guest that runs and none else.
func TestKillMatrix(t *testing.T) {
	t.Parallel()
	withProcesses(t)
	var kills atomic.Int32
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			stride, first := 1, 1
			if os.Getenv("SECEXEC_LONG") == "" { // all of them with make test-long
				stride, first = 3, 2
				if op.before == "waiting" { // for a second
					stride = 9
				}
			}
			for step := first; ; step += stride {
				if !n.killedAt(op, step) {
					t.Logf("%s: %d steps", op.name, step-1)
					break
				}
				kills.Add(1)
			}
		})
	}
	t.Cleanup(func() { t.Logf("%d kills", kills.Load()) })
}

// killedAt kills hostagent at a step of an operation and tells whether it came
// that far.
func (n *node) killedAt(op operation, step int) bool {
	n.t.Helper()
	n.prepare(op)
	id := client.NewRequestID()
	if err := os.WriteFile(n.path("arm"), []byte(strconv.Itoa(step)), 0o600); err != nil {
		n.t.Fatal(err)
	}
	err := n.do(func(ctx context.Context, c *client.Client) error { return op.do(ctx, n, c, id) })
	if e := os.Remove(n.path("arm")); e != nil {
		n.t.Fatal(e)
	}
	select {
	case <-n.ended:
	default:
		if err != nil {
			n.t.Fatalf("%s, not killed: %v", op.name, err)
		}
		return false
	}
	n.boot()
	guests := n.check()
	got := state(guests["g"])
	if got == "waiting" && op.policy != "" {
		n.must(func(ctx context.Context, c *client.Client) error {
			_, err := becomes(ctx, c, "g", "ready")
			return err
		})
		got = state(n.check()["g"])
	}
	if !slices.Contains(op.after, got) || len(guests) > 1 {
		n.t.Errorf("%s, killed at step %d: guest is %q, wants one of %q", op.name, step, got, op.after)
	}
	if len(op.finish) > 0 || op.name == "delete" {
		n.must(func(ctx context.Context, c *client.Client) error {
			err := op.do(ctx, n, c, id)
			var f *fault.Error
			if errors.As(err, &f) && (f.Code == fault.WrongState || f.Code == fault.NoGuest) && got == op.finish {
				return nil
			}
			return err
		})
		if got := state(n.check()["g"]); got != op.finish {
			n.t.Errorf("%s, killed at step %d and repeated: guest is %q, wants %q", op.name, step, got, op.finish)
		}
	}
	return true
}

// prepare brings the guest into the state that an operation begins in.
func (n *node) prepare(op operation) {
	n.t.Helper()
	n.must(func(ctx context.Context, c *client.Client) error {
		g, err := c.Get(ctx, "g")
		var f *fault.Error
		absent := errors.As(err, &f) && f.Code == fault.NoGuest
		if err != nil && !absent {
			return err
		}
		if op.before == "" {
			if absent {
				return nil
			}
			return c.Delete(ctx, "g")
		}
		if absent {
			policy, limit, err := policyOf(op.policy)
			if err != nil {
				return err
			}
			if g, err = c.Create(ctx, &hostagentv1.CreateRequest{Bundle: n.bundle, Restart: &hostagentv1.Restart{Policy: policy, Limit: limit}}); err != nil {
				return err
			}
		}
		if op.policy != "" && (g.State == "ready" || g.State == "waiting") { // to count restarts anew
			if g, err = c.Kill(ctx, "g"); err != nil {
				return err
			}
		}
		if g.State != "ready" {
			if _, err := c.Start(ctx, "g", ""); err != nil {
				return err
			}
		}
		if g, err = becomes(ctx, c, "g", "ready"); err != nil {
			return err
		}
		switch op.before {
		case "stopped":
			_, err = c.Kill(ctx, "g")
		case "waiting":
			if err = syscall.Kill(int(g.Pid), syscall.SIGKILL); err == nil {
				_, err = becomes(ctx, c, "g", "waiting")
			}
		}
		return err
	})
}

func policyOf(text string) (policy string, limit uint32, err error) {
	if text == "" {
		return "", 0, nil
	}
	for i, r := range text {
		if r == ':' {
			_, err = fmt.Sscan(text[i+1:], &limit)
			return text[:i], limit, err
		}
	}
	return text, 0, nil
}
