package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/hostagent/client"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
)

// guestFlags are what run and create say of a guest to be.
type guestFlags struct {
	request   hostagentv1.CreateRequest
	devices   deviceFlags
	resources hostagentv1.Resources
	restart   string
	window    time.Duration
}

func (f *guestFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.request.Name, "name", "", "the guest's name (default: the bundle's)")
	flags.Uint32Var(&f.request.MemoryMib, "memory", 0, "guest memory in MiB (default: the bundle's)")
	flags.Uint32Var(&f.request.Cpus, "cpus", 1, "virtual CPUs")
	flags.StringVar(&f.request.Loadparm, "loadparm", "", "entry of the boot menu, for a bundle that boots from its disk (default: its first)")
	flags.StringVar(&f.restart, "restart", "no", "start the guest again when it ends: no, on-failure[:N], always[:N]")
	flags.DurationVar(&f.window, "restart-window", 0, "how long N restarts have to last (default 10m)")
	flags.BoolVar(&f.request.Autostart, "autostart", false, "start the guest when the node boots, too")
	flags.Uint32Var(&f.request.Order, "order", 0, "among those started at boot: after all of a lower order are ready")
	r := &f.resources
	flags.Uint32Var(&r.CpuWeight, "cpu-weight", 0, "share of the node's CPUs, 1 to 10000, as systemd counts (default 100)")
	flags.Uint32Var(&r.CpuPercent, "cpu-quota", 0, "per cent of one CPU at most, such as 150 (default: no limit)")
	flags.Uint32Var(&r.IoWeight, "io-weight", 0, "share of the node's disks, 1 to 10000 (default 100)")
	f.devices.add(cmd)
}

// of returns the request to create a guest of a bundle.
func (f *guestFlags) of(agent *agentFlags, bundle string) (*hostagentv1.CreateRequest, error) {
	var err error
	if f.request.Bundle, err = agent.path(bundle); err != nil {
		return nil, fmt.Errorf("find bundle: %w", err)
	}
	if f.resources.CpuWeight > 0 || f.resources.CpuPercent > 0 || f.resources.IoWeight > 0 {
		f.request.Resources = &f.resources
	}
	if f.request.Restart, err = parseRestart(f.restart, f.window); err != nil {
		return nil, err
	}
	return &f.request, f.devices.fill(&f.request, agent.path)
}

// parseRestart reads --restart; hostagent checks the policy's name.
func parseRestart(text string, window time.Duration) (*hostagentv1.Restart, error) {
	policy, limit, counted := strings.Cut(text, ":")
	r := &hostagentv1.Restart{Policy: policy}
	if counted {
		n, err := strconv.ParseUint(limit, 10, 32)
		if err != nil || n == 0 {
			return nil, usageError{fmt.Errorf("--restart %.40q: the number of restarts is one from 1 on", text)}
		}
		r.Limit = uint32(n)
	}
	if window%time.Second != 0 || window < 0 || window > math.MaxUint32*time.Second {
		return nil, usageError{fmt.Errorf("--restart-window %s: it is whole seconds", window)}
	}
	r.WindowS = uint32(window / time.Second)
	return r, nil
}

func newCreate() *cobra.Command {
	var agent agentFlags
	var flags guestFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "create BUNDLE",
		Short: "Create a guest and don't start it",
		Long: `Create takes over a bundle and prints the guest's name; secexec start starts it.
Disks and networks that are attached to it are looked at now and before each
start, and their files stay where they are: secexec rm does not remove them.`,
		Example: `  secexec create web --disk path=/srv/data.img,serial=data,format=qcow2 --network tap=tap0,queues=2`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := flags.of(&agent, args[0])
			if err != nil {
				return err
			}
			return agent.with(cmd.Context(), func(c *client.Client) error {
				request.RequestId = client.NewRequestID()
				g, err := c.Create(cmd.Context(), request)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd, guestJSON(g))
				}
				fmt.Fprintln(cmd.OutOrStdout(), g.Name)
				return nil
			})
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	agent.add(cmd)
	return cmd
}
