package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
)

// firstGap is between the two readings that the first figures are made of.
const firstGap = 500 * time.Millisecond

// use is what a guest took between two readings.
type use struct {
	*hostagentv1.GuestUsage
	cpu                                float64 // percent of one processor
	diskRead, diskWrite, netIn, netOut float64 // bytes a second
}

// memory is the share of its memory that a guest uses, in percent.
func (u *use) memory() float64 {
	if u.MemoryMaxBytes == 0 {
		return 0
	}
	return 100 * float64(u.MemoryBytes) / float64(u.MemoryMaxBytes)
}

// uses compares two readings. A guest that was not there before, or was started
// since, counts from its start.
func uses(before, now *hostagentv1.UsageResponse) []use {
	was := make(map[string]*hostagentv1.GuestUsage)
	for _, g := range before.Guests {
		was[g.Uuid] = g
	}
	var out []use
	for _, g := range now.Guests {
		u := use{GuestUsage: g}
		seconds := float64(now.TimeUnixNs-before.TimeUnixNs) / 1e9
		old := was[g.Uuid]
		if old == nil || old.Pid != g.Pid || old.CpuNs > g.CpuNs || old.UptimeMs > g.UptimeMs {
			old, seconds = &hostagentv1.GuestUsage{}, float64(g.UptimeMs)/1e3
		}
		if seconds > 0 && g.Pid != 0 {
			since := func(a, b uint64) float64 { return float64(b-min(a, b)) / seconds }
			u.cpu = since(old.CpuNs, g.CpuNs) / 1e9 * 100
			u.diskRead, u.diskWrite = since(old.DiskReadBytes, g.DiskReadBytes), since(old.DiskWriteBytes, g.DiskWriteBytes)
			u.netIn, u.netOut = since(old.NetworkInBytes, g.NetworkInBytes), since(old.NetworkOutBytes, g.NetworkOutBytes)
		}
		out = append(out, u)
	}
	return out
}

// orders are what top sorts by; what is equal goes by name.
var orders = map[byte]func(a, b *use) int{
	'c': func(a, b *use) int { return cmp.Compare(b.cpu, a.cpu) },
	'm': func(a, b *use) int { return cmp.Compare(b.MemoryBytes, a.MemoryBytes) },
	'n': func(*use, *use) int { return 0 },
}

func sortUses(all []use, by byte) {
	slices.SortFunc(all, func(a, b use) int {
		return cmp.Or(orders[by](&a, &b), strings.Compare(a.Name, b.Name))
	})
}

// sampler reads what guests take, again and again.
type sampler struct {
	client *client.Client
	names  []string
	last   *hostagentv1.UsageResponse
}

// next reads after a while and compares with the reading before.
func (s *sampler) next(ctx context.Context, wait time.Duration) ([]use, error) {
	if s.last == nil {
		first, err := s.client.Usage(ctx, s.names...)
		if err != nil {
			return nil, err
		}
		s.last, wait = first, min(wait, firstGap)
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return s.now(ctx)
}

// now reads at once.
func (s *sampler) now(ctx context.Context) ([]use, error) {
	now, err := s.client.Usage(ctx, s.names...)
	if err != nil {
		return nil, err
	}
	out := uses(s.last, now)
	s.last = now
	return out, nil
}

// shortBytes shows bytes in at most five characters: 999, 9.9K, 999M, 1.2G.
func shortBytes(n float64) string {
	if n < 1000 {
		return fmt.Sprintf("%.0f", n)
	}
	unit := ""
	for _, unit = range []string{"K", "M", "G", "T", "P"} {
		n /= 1024
		if n < 9.95 {
			return fmt.Sprintf("%.1f%s", n, unit)
		}
		if n < 999.5 {
			break
		}
	}
	return fmt.Sprintf("%.0f%s", n, unit)
}

// shortTime shows a time in at most six characters: 59s, 59m59s, 23h59m, 9999d.
func shortTime(millis uint64) string {
	d := time.Duration(millis) * time.Millisecond
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
