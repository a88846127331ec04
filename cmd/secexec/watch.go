package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostagent/client"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
)

func newLogs() *cobra.Command {
	var agent agentFlags
	var follow bool
	var tail int64
	cmd := &cobra.Command{
		Use:   "logs GUEST",
		Short: "Print a guest's console",
		Long: `Logs prints the guest's console as the guest wrote it. What a guest writes may
steer a terminal; pipe it through cat -v when you don't trust the guest.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return agent.with(cmd.Context(), func(c *client.Client) error {
				offset := int64(0)
				if tail > 0 {
					offset = -tail
				}
				for {
					r, err := c.Console(cmd.Context(), args[0], offset, 0)
					if err != nil {
						return err
					}
					if _, err := cmd.OutOrStdout().Write(r.Data); err != nil {
						return fmt.Errorf("print console: %w", err)
					}
					offset = r.Next
					if r.Next < r.Size {
						continue
					}
					if !follow {
						return nil
					}
					select {
					case <-time.After(200 * time.Millisecond):
					case <-cmd.Context().Done():
						return context.Cause(cmd.Context())
					}
				}
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on as the guest writes")
	cmd.Flags().Int64Var(&tail, "tail-bytes", 0, "start so many bytes before the end")
	agent.add(cmd)
	return cmd
}

func newEvents() *cobra.Command {
	var agent agentFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "events [GUEST]",
		Short: "Print changes of guests as they happen",
		Long: `Events prints a line for each change of a guest, or of all: a state that it
went to, a stage of its launch that it reached and after which time, why it
failed. With --json each line is an object with all of the guest.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			return agent.with(cmd.Context(), func(c *client.Client) error {
				stream, err := c.Events(cmd.Context(), name)
				if err != nil {
					return err
				}
				last := make(map[string]*hostagentv1.Guest)
				for {
					e, err := stream.Next()
					if err != nil {
						return err
					}
					if asJSON {
						if err := json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{
							"epoch": e.Epoch, "sequence": e.Sequence, "time": time.UnixMilli(e.TimeUnixMs).UTC(), "deleted": e.Deleted, "guest": guestJSON(e.Guest),
						}); err != nil {
							return err
						}
						continue
					}
					words := eventWords(last[e.Guest.Name], e)
					last[e.Guest.Name] = e.Guest
					if e.Deleted {
						delete(last, e.Guest.Name)
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s\n", time.UnixMilli(e.TimeUnixMs).UTC().Format("2006-01-02T15:04:05.000Z"), e.Guest.Name, term.Printable(words))
				}
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, an object a line")
	agent.add(cmd)
	return cmd
}

// eventWords say what an event changed since the guest was last told of (nil:
// never): one may bring a state and several stages.
func eventWords(before *hostagentv1.Guest, e *hostagentv1.Event) string {
	g := e.Guest
	switch {
	case e.Deleted:
		return "removed"
	case before != nil && before.Move.GetPhase() != g.Move.GetPhase():
		if g.Move == nil {
			return "stays: the move has ended"
		}
		return moveWords(g.Move)
	case g.Failure != nil:
		return g.State + " (" + g.Failure.Code + "): " + g.Failure.Message
	}
	words, told := g.State, 0
	switch {
	case before == nil:
		told = max(0, len(g.Stages)-1)
	case before.StartedUnixMs == g.StartedUnixMs:
		told = min(len(before.Stages), len(g.Stages))
	case g.State == "starting" && g.Restarts > 0:
		words += fmt.Sprintf(", restart %d", g.Restarts)
	}
	for _, s := range g.Stages[told:] {
		words += fmt.Sprintf(", reached %s after %.1f s", s.Name, float64(s.Millis)/1000)
	}
	return words
}

func newNode() *cobra.Command {
	var agent agentFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Show what this node is and whether it can run sealed guests",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return agent.with(cmd.Context(), func(c *client.Client) error {
				n, err := c.NodeInfo(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					err = printJSON(cmd, map[string]any{
						"version": n.Version, "platform": n.Platform, "protected": n.Protected, "qemu_version": n.QemuVersion,
						"host_key_hashes": n.HostKeyHashes, "host_key_hashes_known": n.HostKeyHashesKnown,
						"memory_mib": n.MemoryMib, "cpus": n.Cpus, "guests": n.Guests, "problem": n.Problem,
					})
				} else {
					pairs := []string{"hostagent", n.Version, "platform", platformWord(n.Platform, n.Protected)}
					if n.Problem != "" {
						pairs = append(pairs, "problem", n.Problem)
					} else {
						pairs = append(pairs, "QEMU", n.QemuVersion, "memory", fmt.Sprintf("%d MiB", n.MemoryMib), "cpus", fmt.Sprint(n.Cpus))
						for _, hash := range n.HostKeyHashes {
							pairs = append(pairs, "host key hash", hash)
						}
						if !n.HostKeyHashesKnown {
							pairs = append(pairs, "host key hash", "this kernel does not tell: firmware decides at launch")
						}
					}
					err = term.Fields(cmd.OutOrStdout(), append(pairs, "guests", fmt.Sprint(n.Guests))...)
				}
				if err == nil && n.Problem != "" {
					return statusError(exitFailure)
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	agent.add(cmd)
	cmd.AddCommand(newNodeCheck(), newNodeKubernetes())
	return cmd
}
