package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/move/relay"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// moveFlags are the flags of move.
type moveFlags struct {
	agent               agentFlags
	check               identityFlags
	to                  string
	stop, timeout       time.Duration
	without             []string
	owner               int64
	keep, noStart, json bool
	dryRun, abort, lost bool
}

func newMove() *cobra.Command {
	var f moveFlags
	cmd := &cobra.Command{
		Use:   "move GUEST --to NODE",
		Short: "Move a guest to another node: stop it here, transfer its disks, start it there",
		Long: `Move asks the other node first whether it can run the guest: a key slot for one
of its host keys, room, memory, interfaces. Then it stops the guest here,
transfers its files, has the copy checked on the other node's disk, hands over,
starts the guest there, verifies it as secexec run does, and removes what is left
here. This command talks to both nodes; they need not know each other.

Whatever fails, and wherever, exactly one copy is the guest. The same command
goes on where the last one stopped, also from another machine; --to is the node
on record then. Until the hand-over the guest may be started here again, which
ends the move, or --abort undoes it. After it, the guest never starts here.

Attached disks are this node's: --without-disk leaves one behind.`,
		Example: `  secexec move web --to /run/other/hostagent.sock --dry-run
  secexec move web --to /run/other/hostagent.sock --identity identity.pub
  secexec move web
  secexec move --abort web`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.abort && (f.dryRun || f.keep || f.noStart), f.lost && !f.abort:
				return usageError{errors.New("--abort goes with --lost and --to alone, and --lost with --abort: see secexec move --help")}
			case f.owner < -1 || f.owner > 1<<32-2:
				return usageError{fmt.Errorf("--owner %d is no uid", f.owner)}
			}
			return f.run(cmd, args[0])
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "the other node: its hostagent's `address`, as --socket takes it (default: that of the move under way)")
	flags.BoolVar(&f.dryRun, "dry-run", false, "show whether the guest can move, and change nothing")
	flags.DurationVarP(&f.stop, "time", "t", client.StopTimeout, "how long the guest may take to power off, before it is ended")
	flags.StringArrayVar(&f.without, "without-disk", nil, "`serial` number of an attached disk that stays behind (repeatable)")
	flags.Int64Var(&f.owner, "owner", -1, "`uid` of the guest's owner on the other node (default: the same as here)")
	flags.BoolVar(&f.noStart, "no-start", false, "don't start the guest there")
	flags.BoolVar(&f.keep, "keep", false, "keep the files here; the guest can't be started from them")
	flags.BoolVar(&f.abort, "abort", false, "undo a move before the hand-over")
	flags.BoolVar(&f.lost, "lost", false, "with --abort: the other node is lost for good, so undo a move after the hand-over too; should that node come back, the guest would be there twice")
	flags.DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait until the guest is ready there")
	flags.BoolVar(&f.json, "json", false, "print JSON")
	f.check.add(cmd)
	f.agent.add(cmd)
	return cmd
}

// moveWords say where in an offline migration a guest is.
func moveWords(m *hostagentv1.MovePlace) string {
	switch m.Phase {
	case "leaving":
		return "is leaving to " + m.Peer + "; a start here ends the move"
	case "given":
		return "given to " + m.Peer + ", which has yet to take it"
	case "gone":
		return "moved to " + m.Peer
	case "arriving", "arrived":
		return m.Phase + " from " + m.Peer + ", can't start here yet"
	case "taken":
		return "came from " + m.Peer
	}
	return m.Phase
}

// address is a node's address as other folders and commands find it.
func address(s string) string {
	if strings.Contains(s, "://") || s == "" {
		return s
	}
	if abs, err := filepath.Abs(s); err == nil {
		return abs
	}
	return s
}

// mover connects to a node.
func (f *moveFlags) mover(ctx context.Context, address string) (*client.Mover, error) {
	return client.NewMover(ctx, func(ctx context.Context) (*client.Client, error) { return dial(ctx, address, f.agent.tls) })
}

func (f *moveFlags) run(cmd *cobra.Command, name string) error {
	ctx := cmd.Context()
	m := &relay.Move{Guest: name, From: address(f.agent.socket), To: address(f.to), WithoutDisks: f.without, Keep: f.keep}
	source, err := f.mover(ctx, m.From)
	if err != nil {
		return err
	}
	defer source.Close()
	m.Source = source
	if f.owner >= 0 {
		uid := uint32(f.owner)
		m.Owner = &uid
	}
	if m.To == "" {
		g, err := source.Client().Get(ctx, name)
		if err != nil {
			return err
		}
		if p := g.Move; p != nil && p.Phase != "taken" && p.Phase != "arriving" && p.Phase != "arrived" {
			m.To = p.Peer
		}
	}
	if m.To == "" && !f.abort {
		return usageError{fmt.Errorf("guest %s is in no move from here: name the other node by --to", name)}
	}
	var target *client.Mover
	if m.To != "" && !f.lost {
		if target, err = f.mover(ctx, m.To); err != nil && !f.abort {
			return fmt.Errorf("the other node: %w", err)
		}
	}
	if target != nil {
		defer target.Close()
		m.Target = target
	}
	switch {
	case f.abort:
		if err := m.Abort(ctx, f.lost); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "the move of guest %s is undone\n", name)
		if err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "secexec: a part of a copy may be left on the other node: %v\n", err)
		}
		return nil
	case f.dryRun:
		return f.showVerdicts(cmd, m)
	}
	return f.move(cmd, m, source, target)
}

// move runs the move and shows how far it is.
func (f *moveFlags) move(cmd *cobra.Command, m *relay.Move, source, target *client.Mover) error {
	out := cmd.OutOrStdout()
	if f.json {
		out = cmd.ErrOrStderr()
	}
	steps := term.NewSteps(out)
	begun := time.Now()
	m.Step = func(what string) { steps.Begin(what); begun = time.Now() }
	m.Progress = func(_ string, done, total int64) { steps.Note(term.Rate(done, total, time.Since(begun))) }
	m.Stop = func(ctx context.Context) error {
		_, err := source.Client().Stop(ctx, m.Guest, f.stop)
		return err
	}
	var g *hostagentv1.Guest
	var v *verdict
	if !f.noStart {
		m.Start = func(ctx context.Context) (err error) {
			ctx, cancel := context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("guest not ready within %s", f.timeout))
			defer cancel()
			g, v, err = bringUp(ctx, target.Client(), m.Guest, f.check, steps)
			return err
		}
	}
	sum, err := m.Run(cmd.Context())
	if err != nil {
		steps.Fail()
		return err
	}
	steps.End("")
	if f.json {
		shown := map[string]any{"to": m.To, "bytes": sum}
		if g != nil {
			shown["guest"], shown["verified"] = guestJSON(g), v
		}
		return printJSON(cmd, shown)
	}
	words := ""
	if v != nil {
		words = " and ready: " + v.words()
	}
	fmt.Fprintf(out, "guest %s is on %s%s\n", m.Guest, m.To, words)
	return nil
}

// bringUp starts a guest unless it runs already, waits until it is ready and
// verifies it.
func bringUp(ctx context.Context, c *client.Client, name string, check identityFlags, steps *term.Steps) (*hostagentv1.Guest, *verdict, error) {
	events, err := c.Events(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	g, err := c.Get(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	switch g.State {
	case "starting", "running":
		steps.Begin("guest becomes ready")
		if g, err = follow(events, steps); err != nil {
			return nil, nil, cmp.Or(context.Cause(ctx), err)
		}
	case "ready":
	default:
		return startGuest(ctx, c, name, check, steps)
	}
	steps.Begin("verify readiness")
	v, err := check.verify(ctx, c, g)
	return g, v, err
}

// showVerdicts prints what the other node says, and fails if it is no.
func (f *moveFlags) showVerdicts(cmd *cobra.Command, m *relay.Move) error {
	verdicts, err := m.Verdicts(cmd.Context())
	if err != nil {
		return err
	}
	var refused error
	rows, shown := [][]string{}, []map[string]any{}
	for _, v := range verdicts {
		word, item := "ok", map[string]any{"what": v.What, "ok": v.Ok, "words": v.Words}
		if e := v.Failure; e != nil {
			word, item["code"] = e.Code, e.Code
			refused = cmp.Or(refused, error(&fault.Error{Code: fault.Code(e.Code), Message: e.Message, Remedy: e.Remedy}))
		}
		rows, shown = append(rows, []string{v.What, word, v.Words}), append(shown, item)
	}
	if f.json {
		err = printJSON(cmd, shown)
	} else {
		err = term.Table(cmd.OutOrStdout(), []string{"CHECK", "VERDICT", "DETAIL"}, rows)
	}
	return cmp.Or(err, refused)
}
