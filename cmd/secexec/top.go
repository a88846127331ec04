package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostagent/client"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
)

func newTop() *cobra.Command {
	var agent agentFlags
	var delay time.Duration
	var frames int
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch what this node's guests take",
		Long: `Top shows all guests of this node, those first that take most of its
processors, and draws anew every few seconds. Keys: q ends it; c, m and n sort by
processor, memory and name. Disk and network are bytes a second.

Where the output is no terminal it prints one table, or with -n as many.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if delay <= 0 || frames < 0 {
				return usageError{fmt.Errorf("--delay %s and -n %d: want a time and a number", delay, frames)}
			}
			return agent.with(cmd.Context(), func(c *client.Client) error {
				s := &sampler{client: c}
				if out, ok := cmd.OutOrStdout().(*os.File); ok && term.IsTerminal(out) {
					return watchTop(cmd.Context(), s, cmd.InOrStdin(), out, delay, frames)
				}
				return printTop(cmd.Context(), s, cmd.OutOrStdout(), delay, max(1, frames))
			})
		},
	}
	cmd.Flags().DurationVarP(&delay, "delay", "d", 2*time.Second, "time between two readings")
	cmd.Flags().IntVarP(&frames, "number", "n", 0, "end after so many tables (0: go on; 1 where the output is no terminal)")
	agent.add(cmd)
	return cmd
}

// printTop writes whole tables, a line end behind each.
func printTop(ctx context.Context, s *sampler, w io.Writer, delay time.Duration, frames int) error {
	for i := range frames {
		all, err := s.next(ctx, delay)
		if err != nil {
			return err
		}
		sortUses(all, 'c')
		text := strings.Join(topLines(all, s.last, 'c', 100, len(all)+topHead), "\n") + "\n"
		if i > 0 {
			text = "\n" + text
		}
		if _, err := io.WriteString(w, text); err != nil {
			return fmt.Errorf("print table: %w", err)
		}
	}
	return nil
}

// watchTop draws on a terminal until q, ^C or the last frame.
func watchTop(ctx context.Context, s *sampler, in io.Reader, out *os.File, delay time.Duration, frames int) error {
	screen, err := term.NewScreen(in, out)
	if err != nil {
		return fmt.Errorf("take over terminal: %w", err)
	}
	defer screen.Close()
	all, err := s.next(ctx, delay)
	if err != nil {
		return err
	}
	by := byte('c')
	tick := time.NewTicker(delay)
	defer tick.Stop()
	for drawn := 1; ; {
		sortUses(all, by)
		width, height := screen.Size()
		if err := screen.Draw(topLines(all, s.last, by, width, height)); err != nil {
			return fmt.Errorf("draw table: %w", err)
		}
		if drawn == frames {
			return nil
		}
		select {
		case key := <-screen.Keys():
			if key == 'q' || key == 'Q' || key == 3 || key == 4 {
				return nil
			}
			if orders[key] != nil {
				by = key
			}
		case <-tick.C:
			if all, err = s.now(ctx); err != nil {
				return err
			}
			drawn++
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// topHead is how many lines stand above the guests.
const topHead = 4

// topLines draws a frame: at most height lines of at most width characters.
func topLines(all []use, r *hostagentv1.UsageResponse, by byte, width, height int) []string {
	var cpu float64
	var resident, given uint64
	running := 0
	count := make(map[string]int)
	for _, u := range all {
		count[u.State]++
		if u.Pid != 0 {
			running++
			cpu, resident, given = cpu+u.cpu, resident+u.MemoryBytes, given+u.MemoryMaxBytes
		}
	}
	var states []string
	for _, s := range []string{"ready", "running", "starting", "stopping", "waiting", "failed", "stopped", "created"} {
		if count[s] > 0 {
			states = append(states, fmt.Sprintf("%d %s", count[s], s))
		}
	}
	at := time.Unix(0, r.TimeUnixNs).UTC().Format("15:04:05")
	noun := "guests"
	if len(all) == 1 {
		noun = "guest"
	}
	lines := []string{
		strings.TrimSuffix(fmt.Sprintf("secexec top %s UTC  %d %s: %s", at, len(all), noun, strings.Join(states, ", ")), ": "),
		fmt.Sprintf("guests take %.1f%% of %d CPUs, %s of memory; given %s of %s", cpu/float64(max(1, r.NodeCpus)), r.NodeCpus,
			shortBytes(float64(resident)), shortBytes(float64(given)), shortBytes(float64(r.NodeMemoryBytes))),
		"",
	}
	// What is right of the name takes 64 characters.
	name := min(max(width-64, 8), 40)
	mark := func(key byte, title string) string {
		if key == by {
			return title + "▾"
		}
		return title
	}
	lines = append(lines, padRight(mark('n', "NAME"), name)+fmt.Sprintf(" %-8s", "STATE")+
		padLeft(mark('c', "CPU%"), 7)+padLeft(mark('m', "MEM"), 6)+padLeft("MEM%", 6)+padLeft("READ/s", 7)+padLeft("WRITE/s", 8)+padLeft("IN/s", 6)+padLeft("OUT/s", 6)+padLeft("UP", 7))
	for _, u := range all {
		line := padRight(u.Name, name) + fmt.Sprintf(" %-8s", u.State)
		if u.Pid != 0 {
			line += fmt.Sprintf("%7.1f%6s%6.1f", u.cpu, shortBytes(float64(u.MemoryBytes)), u.memory()) +
				rate(u.DiskKnown, u.diskRead, 7) + rate(u.DiskKnown, u.diskWrite, 8) + rate(u.NetworkKnown, u.netIn, 6) + rate(u.NetworkKnown, u.netOut, 6) +
				padLeft(shortTime(u.UptimeMs), 7)
		}
		lines = append(lines, strings.TrimRight(line, " "))
	}
	if len(lines) > height {
		lines = lines[:max(1, height)]
		if height > topHead {
			lines[height-1] = fmt.Sprintf("… and %d more", len(all)-(height-1-topHead))
		}
	}
	for i := range lines {
		lines[i] = cut(term.Printable(lines[i]), width)
	}
	return lines
}

func rate(known bool, bytes float64, width int) string {
	if !known {
		return padLeft("-", width)
	}
	return padLeft(shortBytes(bytes), width)
}

// cut shortens text to a width, with a mark where it was longer.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(0, width-1)]) + "…"
}

func padRight(s string, width int) string {
	s = cut(s, width)
	return s + strings.Repeat(" ", width-utf8.RuneCountInString(s))
}

func padLeft(s string, width int) string {
	return strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s))) + s
}
