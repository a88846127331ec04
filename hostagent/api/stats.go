package api

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/hostagent/usage"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// maxUsage is how many guests one call may name.
const maxUsage = 4096

// stats implements hostagentv1.StatsService beside a Service.
type stats struct{ *Service }

var _ hostagentv1.StatsService = stats{}

// Usage implements the service.
func (s stats) Usage(ctx context.Context, r *hostagentv1.UsageRequest) (*hostagentv1.UsageResponse, error) {
	if len(r.Names) > maxUsage {
		return nil, toStatus(fault.New(fault.BadRequest, "usage of %d guests, at most %d at once", len(r.Names), maxUsage))
	}
	guests, err := s.named(ctx, r.Names)
	if err != nil {
		return nil, toStatus(err)
	}
	now := time.Now()
	out := &hostagentv1.UsageResponse{
		TimeUnixNs: now.UnixNano(), NodeCpus: uint32(runtime.NumCPU()), NodeMemoryBytes: usage.NodeMemory(),
		Guests: make([]*hostagentv1.GuestUsage, len(guests)),
	}
	// Files of /proc are read by the processor, not waited for: a reader for each.
	var readers sync.WaitGroup
	n := min(runtime.NumCPU(), len(guests)/16+1)
	for first := range n {
		readers.Go(func() {
			for i := first; i < len(guests); i += n {
				out.Guests[i] = Usage(usage.Reader{}, &guests[i], now)
			}
		})
	}
	readers.Wait()
	return out, nil
}

// named are the guests of these names, or all, that the caller may see.
func (s stats) named(ctx context.Context, names []string) (out []store.Guest, err error) {
	for _, name := range names {
		g, err := s.find(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, g.Snapshot())
	}
	if len(names) == 0 {
		for _, g := range s.visible(ctx) {
			out = append(out, g.Snapshot())
		}
	}
	return out, nil
}

// Usage is what one guest takes.
func Usage(r usage.Reader, rec *store.Guest, now time.Time) *hostagentv1.GuestUsage {
	out := &hostagentv1.GuestUsage{
		Name: rec.Name, Uuid: rec.UUID, State: rec.State, Restarts: uint32(len(rec.Restarts)),
		MemoryMaxBytes: uint64(rec.MemoryMiB) << 20, Cpus: uint32(rec.CPUs),
	}
	if rec.Process == nil {
		return out
	}
	u, err := r.Read(*rec.Process, taps(rec))
	if err != nil {
		return out // it just ended
	}
	out.Pid, out.CpuNs, out.MemoryBytes, out.Threads = int32(rec.Process.PID), uint64(u.CPU), u.Memory, u.Threads
	out.DiskKnown, out.DiskReadBytes, out.DiskWriteBytes = u.DiskKnown, u.DiskRead, u.DiskWrite
	out.NetworkKnown, out.NetworkInBytes, out.NetworkOutBytes = u.NetKnown, u.NetIn, u.NetOut
	out.UptimeMs = uint64(max(0, now.Sub(rec.Started).Milliseconds()))
	return out
}

// taps are the tap interfaces of a guest.
func taps(rec *store.Guest) (out []string) {
	for _, n := range rec.Networks {
		if n.Tap != "" {
			out = append(out, n.Tap)
		}
	}
	return out
}
