package usage

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// tree is where cgroups of version 2 are, on a node that has them alone: systemd
// bounds and counts guests nowhere else.
const tree = "/sys/fs/cgroup"

// Guest is what a guest takes. used is hostagent's count, and unit the guest's, or
// empty.
func Guest(used *hostagentv1.GuestUsage, unit string) (*stats.Metrics, error) {
	if used.GetPid() == 0 {
		return new(stats.Metrics), nil // it does not run
	}
	m := process(used)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", used.Pid))
	if err != nil {
		return m, nil // it has just ended
	}
	name, own := cgroupOf(text, unit)
	if _, err := os.Stat(filepath.Join(tree, "cgroup.controllers")); err != nil || !own {
		return m, nil
	}
	c, err := readCgroup(os.DirFS(tree), name)
	if err != nil {
		return nil, err
	}
	c.Network = m.Network
	return c, nil
}

// process is what hostagent counts of a process, in the form of a cgroup's
// metrics.
func process(used *hostagentv1.GuestUsage) *stats.Metrics {
	m := &stats.Metrics{
		Pids:   &stats.PidsStat{Current: uint64(used.Threads)}, // as cgroups count
		CPU:    &stats.CPUStat{UsageUsec: used.CpuNs / uint64(time.Microsecond)},
		Memory: &stats.MemoryStat{Anon: used.MemoryBytes, Usage: used.MemoryBytes, UsageLimit: used.MemoryMaxBytes},
	}
	if used.DiskKnown {
		m.Io = &stats.IOStat{Usage: []*stats.IOEntry{{Rbytes: used.DiskReadBytes, Wbytes: used.DiskWriteBytes}}}
	}
	if used.NetworkKnown {
		m.Network = []*stats.NetworkStat{{Name: "eth0", RxBytes: used.NetworkInBytes, TxBytes: used.NetworkOutBytes}}
	}
	return m
}

// Self is what this process takes.
func Self() (*stats.Metrics, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return nil, fmt.Errorf("read own usage: %w", err)
	}
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return nil, fmt.Errorf("read own usage: %w", err)
	}
	var size, resident uint64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return nil, fmt.Errorf("read own usage: %w", err)
	}
	resident *= uint64(os.Getpagesize())
	user, system := uint64(r.Utime.Nano())/1000, uint64(r.Stime.Nano())/1000
	return &stats.Metrics{
		Pids:   &stats.PidsStat{Current: 1},
		CPU:    &stats.CPUStat{UsageUsec: user + system, UserUsec: user, SystemUsec: system},
		Memory: &stats.MemoryStat{Anon: resident, Usage: resident},
	}, nil
}
