package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/node"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/settings"
)

func newNodeCheck() *cobra.Command {
	var agent agentFlags
	var local nodeFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Examine this machine: can it run sealed guests, and what is there to do?",
		Long: `Check examines machine, kernel, ultravisor, KVM, QEMU and what guests need
beside them, a line for each: PASS, WARN, or FAIL with what to do. It changes
nothing.

The hostagent that listens does it, with its own rights and settings. Where
none does, or with --local, secexec does it itself by hostagent's settings file:
so a machine can be examined before hostagent is set up. Exit status 1 says that
there is a FAIL.`,
		Example: "  secexec node check\n  secexec node check --local --platform emulated --emulated-host host",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings, by, err := local.examine(cmd.Context(), &agent)
			if err != nil {
				return err
			}
			if asJSON {
				lines := make([]map[string]string, 0, len(findings))
				for _, f := range findings {
					lines = append(lines, map[string]string{"check": f.Check, "result": string(f.Result), "says": f.Says, "remedy": f.Remedy})
				}
				err = printJSON(cmd, map[string]any{"examined_by": by, "result": node.Worst(findings), "checks": lines})
			} else {
				err = printFindings(cmd, findings)
			}
			if err == nil && node.Worst(findings) == node.Fail {
				return statusError(exitFailure)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.BoolVar(&local.local, "local", false, "examine from here even if a hostagent listens")
	f.StringVar(&local.config, "config", "", "hostagent's settings file, of use without hostagent (default: "+settings.File+" where it is there)")
	f.StringVar(&local.platform, "platform", "", "se or emulated instead of the settings' platform")
	f.StringVar(&local.host, "emulated-host", "", "folder of an emulated host instead of the settings'")
	agent.add(cmd)
	return cmd
}

// nodeFlags say what is examined without a hostagent.
type nodeFlags struct {
	local                  bool
	config, platform, host string
}

// examine asks hostagent or looks itself, and says which.
func (n *nodeFlags) examine(ctx context.Context, agent *agentFlags) (findings []node.Finding, by string, err error) {
	if !n.local && n.config == "" && n.platform == "" && n.host == "" {
		err := agent.with(ctx, func(c *client.Client) error {
			findings, err = c.NodeCheck(ctx)
			return err
		})
		if !errors.Is(err, client.ErrNoHostagent) {
			return findings, "hostagent", err
		}
	}
	s, err := settings.Load(cmp.Or(n.config, settings.File))
	if err != nil && (n.config != "" || !errors.Is(err, os.ErrNotExist)) {
		return nil, "", err
	}
	s.Platform, s.EmulatedHost = cmp.Or(n.platform, s.Platform), cmp.Or(n.host, s.EmulatedHost)
	if s.Platform != platform.NameSE && s.Platform != platform.NameEmulated {
		return nil, "", usageError{fmt.Errorf("platform %q is neither %s nor %s", s.Platform, platform.NameSE, platform.NameEmulated)}
	}
	return node.Check(ctx, node.Local(), node.Options{
		Emulated: s.Platform == platform.NameEmulated, EmulatedHost: s.EmulatedHost, Force: s.ForceEmulated, QEMU: s.QEMU, State: s.State,
	}), "secexec", nil
}

// printFindings prints a line for each check, and beneath it what to do.
func printFindings(cmd *cobra.Command, findings []node.Finding) error {
	out, counts := cmd.OutOrStdout(), map[node.Result]int{}
	for _, f := range findings {
		counts[f.Result]++
		if _, err := fmt.Fprintf(out, "%s  %-18s %s\n", f.Result, f.Check, term.Printable(f.Says)); err != nil {
			return fmt.Errorf("print report: %w", err)
		}
		if f.Remedy != "" {
			fmt.Fprintf(out, "%24s → %s\n", "", term.Printable(f.Remedy))
		}
	}
	verdict := "this node can run sealed guests"
	if counts[node.Fail] > 0 {
		verdict = "this node can't run sealed guests"
	}
	_, err := fmt.Fprintf(out, "%s: %d passed, %d warned of, %d failed\n", verdict, counts[node.Pass], counts[node.Warn], counts[node.Fail])
	return err
}
