package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/libvirt"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
)

// guestJSON is a guest as --json prints it; names are the API's.
func guestJSON(g *hostagentv1.Guest) map[string]any {
	passed := make([]map[string]any, 0, len(g.Stages))
	for _, s := range g.Stages {
		passed = append(passed, map[string]any{"name": s.Name, "millis": s.Millis})
	}
	out := map[string]any{
		"name": g.Name, "uuid": g.Uuid, "state": g.State, "stages": passed, "platform": g.Platform, "protected": g.Protected,
		"pid": g.Pid, "created": time.UnixMilli(g.CreatedUnixMs).UTC(), "memory_mib": g.MemoryMib, "cpus": g.Cpus,
		"image_id": g.ImageId, "identity": g.Identity, "autostart": g.Autostart, "order": g.Order, "restarts": g.Restarts,
	}
	if r := g.Resources; r != nil {
		out["resources"] = map[string]any{"cpu_weight": r.CpuWeight, "cpu_percent": r.CpuPercent, "io_weight": r.IoWeight}
	}
	if r := g.Restart; r != nil {
		out["restart"] = map[string]any{"policy": r.Policy, "limit": r.Limit, "window_s": r.WindowS}
	}
	if g.RestartUnixMs != 0 {
		out["restart_at"] = time.UnixMilli(g.RestartUnixMs).UTC()
	}
	out["disks"], out["networks"] = disksJSON(g.Disks), networksJSON(g.Networks)
	if g.Unit != "" {
		out["unit"] = g.Unit
	}
	if g.StartedUnixMs != 0 {
		out["started"] = time.UnixMilli(g.StartedUnixMs).UTC()
	}
	if g.ExitStatus != nil {
		out["exit_status"] = *g.ExitStatus
	}
	if g.Unhealthy {
		out["unhealthy"] = true
	}
	if m := g.Move; m != nil {
		out["move"] = map[string]string{"phase": m.Phase, "id": m.Id, "copy": m.Copy, "peer": m.Peer}
	}
	if f := g.Failure; f != nil {
		out["failure"] = map[string]string{"code": f.Code, "message": f.Message, "remedy": f.Remedy}
	}
	return out
}

// resourceWords leaves out what is systemd's default.
func resourceWords(r *hostagentv1.Resources) string {
	var words []string
	for _, part := range []struct {
		format string
		value  uint32
	}{{"CPU weight %d", r.CpuWeight}, {"CPU quota %d%%", r.CpuPercent}, {"I/O weight %d", r.IoWeight}} {
		if part.value > 0 {
			words = append(words, fmt.Sprintf(part.format, part.value))
		}
	}
	return strings.Join(words, ", ")
}

func newPs() *cobra.Command {
	var agent agentFlags
	var all, asJSON, quiet bool
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List guests",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return agent.with(cmd.Context(), func(c *client.Client) error {
				guests, err := c.List(cmd.Context())
				if err != nil {
					return err
				}
				rows, shown := [][]string{}, []map[string]any{}
				for _, g := range guests {
					if !all && (g.State == "stopped" || g.State == "failed" || g.State == "created") {
						continue
					}
					if quiet {
						fmt.Fprintln(cmd.OutOrStdout(), g.Name)
					}
					shown = append(shown, guestJSON(g))
					rows = append(rows, []string{
						g.Name, stateWord(g), ago(g.StartedUnixMs), fmt.Sprintf("%d MiB", g.MemoryMib), fmt.Sprint(g.Cpus),
						platformWord(g.Platform, g.Protected), g.ImageId[:min(12, len(g.ImageId))],
					})
				}
				switch {
				case quiet:
					return nil
				case asJSON:
					return printJSON(cmd, shown)
				}
				return term.Table(cmd.OutOrStdout(), []string{"NAME", "STATE", "STARTED", "MEMORY", "CPUS", "PLATFORM", "IMAGE"}, rows)
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "show guests that don't run too")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	agent.add(cmd)
	return cmd
}

func newInspect() *cobra.Command {
	var agent agentFlags
	var format formatFlags
	cmd := &cobra.Command{
		Use:   "inspect GUEST",
		Short: "Show all of a guest",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return agent.with(cmd.Context(), func(c *client.Client) error {
				g, err := c.Get(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				pairs := []string{
					"name", g.Name, "uuid", g.Uuid, "state", g.State, "platform", platformWord(g.Platform, g.Protected),
					"created", ago(g.CreatedUnixMs), "started", ago(g.StartedUnixMs), "stages", stages(g), "qemu pid", fmt.Sprint(g.Pid),
					"memory", fmt.Sprintf("%d MiB", g.MemoryMib), "cpus", fmt.Sprint(g.Cpus), "image id", g.ImageId, "identity", g.Identity,
				}
				if r := g.Restart; r != nil {
					pairs = append(pairs, "restart", fmt.Sprintf("%s, %d of %d in %s", r.Policy, g.Restarts, r.Limit, time.Duration(r.WindowS)*time.Second))
				}
				if g.Autostart {
					pairs = append(pairs, "autostart", fmt.Sprintf("order %d", g.Order))
				}
				if r := g.Resources; r != nil {
					pairs = append(pairs, "resources", resourceWords(r))
				}
				for _, d := range g.Disks {
					pairs = append(pairs, "disk", diskWords(d))
				}
				for _, n := range g.Networks {
					pairs = append(pairs, "network", networkWords(n))
				}
				if g.Unit != "" {
					pairs = append(pairs, "unit", g.Unit)
				}
				if g.ExitStatus != nil {
					pairs = append(pairs, "exit status", fmt.Sprint(*g.ExitStatus))
				}
				if f := g.Failure; f != nil {
					pairs = append(pairs, "failure", f.Code+": "+f.Message, "remedy", f.Remedy)
				}
				if m := g.Move; m != nil {
					pairs = append(pairs, "move", moveWords(m))
				}
				return format.print(cmd, func() error { return term.Fields(cmd.OutOrStdout(), pairs...) }, guestJSON(g), func() (*libvirt.Guest, error) {
					if !g.Protected {
						fmt.Fprintf(cmd.ErrOrStderr(), "guest %s runs on platform %s, which libvirt does not have: this is its domain for a node with Secure Execution\n", g.Name, g.Platform)
					}
					return guestDomain(g), nil
				})
			})
		},
	}
	format.add(cmd)
	agent.add(cmd)
	return cmd
}

func newStop() *cobra.Command {
	var agent agentFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "stop GUEST...",
		Short: "Ask guests to power off, in order; end them after a time",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return agent.each(cmd, args, func(c *client.Client, name string) error {
				_, err := c.Stop(cmd.Context(), name, timeout)
				return err
			})
		},
	}
	cmd.Flags().DurationVarP(&timeout, "time", "t", 30*time.Second, "how long a guest may take")
	agent.add(cmd)
	return cmd
}

func newKill() *cobra.Command {
	var agent agentFlags
	cmd := &cobra.Command{
		Use:   "kill GUEST...",
		Short: "End guests at once",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return agent.each(cmd, args, func(c *client.Client, name string) error {
				_, err := c.Kill(cmd.Context(), name)
				return err
			})
		},
	}
	agent.add(cmd)
	return cmd
}

func newRm() *cobra.Command {
	var agent agentFlags
	var force bool
	cmd := &cobra.Command{
		Use:   "rm GUEST...",
		Short: "Remove guests that don't run, and their disks",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return agent.each(cmd, args, func(c *client.Client, name string) error {
				if force {
					_, _ = c.Kill(cmd.Context(), name) // one that does not run can't be killed
				}
				return c.Delete(cmd.Context(), name)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill a running guest first")
	agent.add(cmd)
	return cmd
}
