package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
)

func newRun() *cobra.Command {
	var agent agentFlags
	var check identityFlags
	var flags guestFlags
	var asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "run BUNDLE",
		Short: "Create and start a guest, and wait until it is ready, verified",
		Long: `Run takes over a bundle, starts the guest and waits for a signed readiness
report that answers a fresh nonce. Without --identity the report is checked with
the bundle's own key, which proves no more than the bundle does; the owner checks
with the identity.pub kept at build.

A guest that does not become ready is ended and stays, as failed, for
secexec inspect and secexec logs, or is started again as --restart has it.

--restart on-failure starts a guest again that fails, --restart always also one
that powers itself off; neither one that was stopped, nor one that can't start,
such as an image that the ultravisor refuses. The time before a restart grows from
one second to a minute. After 5 restarts within 10 minutes, or as many as
on-failure:N or always:N and --restart-window say, the guest stays failed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := flags.of(&agent, args[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, fmt.Errorf("guest not ready within %s", timeout))
			defer cancel()
			return agent.with(ctx, func(c *client.Client) error {
				out := cmd.OutOrStdout()
				if asJSON {
					out = cmd.ErrOrStderr()
				}
				g, verdict, err := runGuest(ctx, c, request, check, term.NewSteps(out))
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd, map[string]any{"guest": guestJSON(g), "verified": verdict})
				}
				fmt.Fprintf(out, "guest %s is ready: %s\n", g.Name, verdict.words())
				return nil
			})
		},
	}
	f := cmd.Flags()
	flags.add(cmd)
	f.DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait for all of it")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	check.add(cmd)
	agent.add(cmd)
	refuseImpossible(cmd)
	return cmd
}

// runGuest creates, starts and verifies. What an interruption leaves it ends and
// removes.
func runGuest(ctx context.Context, c *client.Client, r *hostagentv1.CreateRequest, check identityFlags, steps *term.Steps) (*hostagentv1.Guest, *verdict, error) {
	steps.Begin("copy bundle")
	r.RequestId = client.NewRequestID()
	g, err := c.Create(ctx, r)
	if err != nil {
		steps.Fail()
		return nil, nil, err
	}
	ready, v, err := startGuest(ctx, c, g.Name, check, steps)
	if err != nil && ctx.Err() != nil {
		undo(c, g.Name)
	}
	return ready, v, err
}

// startGuest starts a guest, shows its stages and verifies its readiness.
func startGuest(ctx context.Context, c *client.Client, name string, check identityFlags, steps *term.Steps) (g *hostagentv1.Guest, v *verdict, err error) {
	defer func() {
		if err != nil {
			steps.Fail()
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
		}
	}()
	events, err := c.Events(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	steps.Begin("launch QEMU")
	if _, err := c.Start(ctx, name, client.NewRequestID()); err != nil {
		return nil, nil, err
	}
	if g, err = follow(events, steps); err != nil {
		return nil, nil, err
	}
	steps.Begin("verify readiness")
	if v, err = check.verify(ctx, c, g); err != nil {
		return nil, nil, err
	}
	steps.End("")
	return g, v, nil
}

func newStart() *cobra.Command {
	var agent agentFlags
	var check identityFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "start GUEST",
		Short: "Start a guest that does not run, and wait until it is ready, verified",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, fmt.Errorf("guest not ready within %s", timeout))
			defer cancel()
			return agent.with(ctx, func(c *client.Client) error {
				g, verdict, err := startGuest(ctx, c, args[0], check, term.NewSteps(cmd.OutOrStdout()))
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "guest %s is ready: %s\n", g.Name, verdict.words())
				return nil
			})
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait")
	check.add(cmd)
	agent.add(cmd)
	return cmd
}

// waiting says what comes after each stage.
var waiting = map[string]string{
	"starting": "ultravisor unpacks the image", "unpacked": "kernel starts", "kernel": "guestinit unlocks the root",
	"unlocked": "root is mounted", "mounted": "guestinit hands over", "handover": "guest runs",
	"secrets": "owner delivers the guest's secrets (secexec connect secret)", "running": "guest becomes ready",
}

// follow shows stages as they pass, up to ready.
func follow(events *client.Stream, steps *term.Steps) (*hostagentv1.Guest, error) {
	shown := 0
	for {
		e, err := events.Next()
		if err != nil {
			return nil, err
		}
		g := e.Guest
		if len(g.Stages) < shown { // it started again
			shown = 0
		}
		for ; shown < len(g.Stages); shown++ {
			steps.End(fmt.Sprintf("[%s]", g.Stages[shown].Name))
			if next := waiting[g.Stages[shown].Name]; next != "" {
				steps.Begin(next)
			}
		}
		switch {
		case e.Deleted:
			return nil, errors.New("the guest was removed meanwhile")
		case g.State == "ready":
			return g, nil
		case g.State == "failed" && g.Failure != nil:
			return nil, &fault.Error{Code: fault.Code(g.Failure.Code), Message: g.Failure.Message, Remedy: g.Failure.Remedy}
		case g.State == "waiting" && g.Failure != nil:
			steps.Fail()
			steps.Begin(fmt.Sprintf("start it again (%s: %s)", g.Failure.Code, term.Printable(g.Failure.Message)))
		case g.State == "stopped" || g.State == "stopping":
			return nil, fmt.Errorf("guest %s was stopped meanwhile", g.Name)
		}
	}
}

// undo ends and removes a guest after an interruption.
func undo(c *client.Client, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, _ = c.Kill(ctx, name)
	_ = c.Delete(ctx, name)
}
