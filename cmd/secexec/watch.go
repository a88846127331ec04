package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostagent/client"
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
		Args:  cobra.MaximumNArgs(1),
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
				for {
					e, err := stream.Next()
					if err != nil {
						return err
					}
					if asJSON {
						if err := printJSON(cmd, map[string]any{
							"sequence": e.Sequence, "time": time.UnixMilli(e.TimeUnixMs).UTC(), "deleted": e.Deleted, "guest": guestJSON(e.Guest),
						}); err != nil {
							return err
						}
						continue
					}
					word := stateWord(e.Guest)
					if e.Deleted {
						word = "removed"
					} else if n := len(e.Guest.Stages); n > 0 && e.Guest.Failure == nil {
						word += ", " + e.Guest.Stages[n-1].Name
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s\n", time.UnixMilli(e.TimeUnixMs).UTC().Format("2006-01-02T15:04:05.000Z"), e.Guest.Name, term.Printable(word))
				}
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	agent.add(cmd)
	return cmd
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
	cmd.AddCommand(newNodeCheck())
	return cmd
}
