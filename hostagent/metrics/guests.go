package metrics

import (
	"sync"
	"time"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// states are a guest's states; each has a line, so that one that no guest is in
// is 0 and not absent.
var states = []string{"created", "starting", "running", "ready", "stopping", "stopped", "failed", "waiting"}

// usageAge is for how long what was read serves further metrics: a scrape reads
// once.
const usageAge = 100 * time.Millisecond

// Guests adds the metrics of guests. Their number bounds the series: all of a
// guest's vanish with it.
func (s *Set) Guests(read func() []*hostagentv1.GuestUsage) {
	var mu sync.Mutex
	var last []*hostagentv1.GuestUsage
	var at time.Time
	all := func() []*hostagentv1.GuestUsage {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(at) > usageAge || last == nil {
			last, at = read(), now
		}
		return last
	}
	s.Read("secexec_guests", "Guests of this node, by state.", []string{"state"}, func() []Value {
		count := make(map[string]float64)
		for _, g := range all() {
			count[g.State]++
		}
		var out []Value
		for _, state := range states {
			out = append(out, Value{[]string{state}, count[state]})
		}
		return out
	})
	per := func(name, help string, value func(*hostagentv1.GuestUsage) (float64, bool)) {
		s.Read(name, help, []string{"guest"}, func() (out []Value) {
			for _, g := range all() {
				if v, ok := value(g); ok && g.Pid != 0 {
					out = append(out, Value{[]string{g.Name}, v})
				}
			}
			return out
		})
	}
	number := func(get func(*hostagentv1.GuestUsage) uint64) func(*hostagentv1.GuestUsage) (float64, bool) {
		return func(g *hostagentv1.GuestUsage) (float64, bool) { return float64(get(g)), true }
	}
	per("secexec_guest_cpu_seconds_total", "Processor time of a guest's QEMU since the guest's start.", func(g *hostagentv1.GuestUsage) (float64, bool) {
		return float64(g.CpuNs) / 1e9, true
	})
	per("secexec_guest_cpus", "Processors that a guest has.", func(g *hostagentv1.GuestUsage) (float64, bool) { return float64(g.Cpus), true })
	per("secexec_guest_memory_bytes", "Resident memory of a guest, QEMU's own included.", number((*hostagentv1.GuestUsage).GetMemoryBytes))
	per("secexec_guest_memory_max_bytes", "Memory that a guest was given.", number((*hostagentv1.GuestUsage).GetMemoryMaxBytes))
	per("secexec_guest_threads", "Threads of a guest's QEMU.", func(g *hostagentv1.GuestUsage) (float64, bool) { return float64(g.Threads), true })
	per("secexec_guest_uptime_seconds", "Time since a guest's start.", func(g *hostagentv1.GuestUsage) (float64, bool) { return float64(g.UptimeMs) / 1e3, true })
	for _, m := range []struct {
		name, help string
		get        func(*hostagentv1.GuestUsage) uint64
		known      func(*hostagentv1.GuestUsage) bool
	}{
		{"secexec_guest_disk_read_bytes_total", "Bytes that were read from storage for a guest.", (*hostagentv1.GuestUsage).GetDiskReadBytes, (*hostagentv1.GuestUsage).GetDiskKnown},
		{"secexec_guest_disk_written_bytes_total", "Bytes that were written to storage for a guest.", (*hostagentv1.GuestUsage).GetDiskWriteBytes, (*hostagentv1.GuestUsage).GetDiskKnown},
		{"secexec_guest_network_in_bytes_total", "Bytes that went into a guest by its tap interfaces.", (*hostagentv1.GuestUsage).GetNetworkInBytes, (*hostagentv1.GuestUsage).GetNetworkKnown},
		{"secexec_guest_network_out_bytes_total", "Bytes that came out of a guest by its tap interfaces.", (*hostagentv1.GuestUsage).GetNetworkOutBytes, (*hostagentv1.GuestUsage).GetNetworkKnown},
	} {
		per(m.name, m.help, func(g *hostagentv1.GuestUsage) (float64, bool) { return float64(m.get(g)), m.known(g) })
	}
}
