package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostagent/client"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
)

func newStats() *cobra.Command {
	var agent agentFlags
	var once, all bool
	var format string
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "stats [GUEST...]",
		Short: "Show what guests take from their node",
		Long: `Stats shows processor, memory, network and disk use of guests, of all that run
unless some are named, and goes on until it is interrupted.

CPU % is of one processor: since the guest's start at first, and with
--no-stream, and from one reading to the next after that. MEM USAGE is what the guest's
QEMU has resident, its own included. NET IO is what went into and out of the
guest by tap interfaces, DISK IO what was read from and written to storage,
since the guest's start; "-" is what the node does not tell.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case format != "table" && format != "json":
				return usageError{fmt.Errorf("--format %q: wants table or json", format)}
			case interval <= 0:
				return usageError{fmt.Errorf("--interval %s: wants a time", interval)}
			}
			return agent.with(cmd.Context(), func(c *client.Client) error {
				s := sampler{client: c, names: args, last: &hostagentv1.UsageResponse{}}
				for wait := time.Duration(0); ; wait = interval {
					found, err := s.next(cmd.Context(), wait)
					if err != nil {
						return err
					}
					var shown []use
					for _, u := range found {
						if all || len(args) > 0 || u.Pid != 0 {
							shown = append(shown, u)
						}
					}
					if format == "json" {
						err = printJSON(cmd, usesJSON(shown))
					} else {
						if !once && term.IsTerminal(cmd.OutOrStdout()) {
							_, _ = io.WriteString(cmd.OutOrStdout(), "\x1b[H\x1b[2J")
						}
						err = statsTable(cmd.OutOrStdout(), shown)
					}
					if err != nil || once {
						return err
					}
				}
			})
		},
	}
	cmd.Flags().BoolVar(&once, "no-stream", false, "print once and end")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "show guests that don't run too")
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	cmd.Flags().DurationVarP(&interval, "interval", "i", 5*time.Second, "time between two readings")
	agent.add(cmd)
	return cmd
}

func statsTable(w io.Writer, all []use) error {
	var rows [][]string
	for _, u := range all {
		if u.Pid == 0 {
			rows = append(rows, []string{u.Name, "-", "-", "-", "-", "-", "-"})
			continue
		}
		rows = append(rows, []string{
			u.Name, fmt.Sprintf("%.2f%%", u.cpu),
			shortBytes(float64(u.MemoryBytes)) + " / " + shortBytes(float64(u.MemoryMaxBytes)), fmt.Sprintf("%.1f%%", u.memory()),
			pair(u.NetworkKnown, u.NetworkInBytes, u.NetworkOutBytes), pair(u.DiskKnown, u.DiskReadBytes, u.DiskWriteBytes), fmt.Sprint(u.Threads),
		})
	}
	return term.Table(w, []string{"NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET IO", "DISK IO", "THREADS"}, rows)
}

func pair(known bool, a, b uint64) string {
	if !known {
		return "-"
	}
	return shortBytes(float64(a)) + " / " + shortBytes(float64(b))
}

// usesJSON is what --format json prints; names are the API's.
func usesJSON(all []use) []map[string]any {
	out := make([]map[string]any, 0, len(all))
	for _, u := range all {
		one := map[string]any{"name": u.Name, "uuid": u.Uuid, "state": u.State, "restarts": u.Restarts, "memory_max_bytes": u.MemoryMaxBytes, "cpus": u.Cpus, "pid": u.Pid}
		if u.Pid != 0 {
			one["cpu_percent"], one["cpu_ns"], one["memory_bytes"], one["threads"], one["uptime_ms"] = u.cpu, u.CpuNs, u.MemoryBytes, u.Threads, u.UptimeMs
		}
		if u.DiskKnown {
			one["disk_read_bytes"], one["disk_write_bytes"] = u.DiskReadBytes, u.DiskWriteBytes
		}
		if u.NetworkKnown {
			one["network_in_bytes"], one["network_out_bytes"] = u.NetworkInBytes, u.NetworkOutBytes
		}
		out = append(out, one)
	}
	return out
}
