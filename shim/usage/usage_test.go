package usage

import (
	"errors"
	"maps"
	"math"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// files are a unit's cgroup, as Linux 6.1 shows it, cut.
var files = map[string]string{
	"cpu.stat":            "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\ncore_sched.force_idle_usec 0\nnr_periods 3\nnr_throttled 2\nthrottled_usec 70\n",
	"memory.current":      "104857600\n",
	"memory.max":          "max\n",
	"memory.peak":         "209715200\n",
	"memory.stat":         "anon 100000000\nfile 4857600\nkernel 1\ninactive_file 4096\npgfault 9\npgmajfault 1\n",
	"memory.events":       "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\noom_group_kill 0\n",
	"memory.swap.current": "0\n",
	"memory.swap.max":     "max\n",
	"pids.current":        "7\n",
	"pids.max":            "1024\n",
	"io.stat":             "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n253:1 \n",
}

const name = "secexec.slice/secexec-web.service"

func cgroup(over map[string]string) fstest.MapFS {
	all := maps.Clone(files)
	maps.Copy(all, over)
	tree := make(fstest.MapFS)
	for file, text := range all {
		if text != "" {
			tree[name+"/"+file] = &fstest.MapFile{Data: []byte(text)}
		}
	}
	return tree
}

func TestCgroup(t *testing.T) {
	t.Parallel()
	m, err := readCgroup(cgroup(nil), name)
	if err != nil {
		t.Fatal(err)
	}
	want := &stats.Metrics{
		Pids:         &stats.PidsStat{Current: 7, Limit: 1024},
		CPU:          &stats.CPUStat{UsageUsec: 1500, UserUsec: 1000, SystemUsec: 500, NrPeriods: 3, NrThrottled: 2, ThrottledUsec: 70},
		Memory:       &stats.MemoryStat{Anon: 100000000, File: 4857600, InactiveFile: 4096, Pgfault: 9, Pgmajfault: 1, Usage: 104857600, UsageLimit: math.MaxUint64, MaxUsage: 209715200, SwapLimit: math.MaxUint64},
		MemoryEvents: &stats.MemoryEvents{Max: 4, Oom: 1, OomKill: 1},
		Io:           &stats.IOStat{Usage: []*stats.IOEntry{{Major: 8, Rbytes: 4096, Wbytes: 8192, Rios: 1, Wios: 2}, {Major: 253, Minor: 1}}},
	}
	if !proto.Equal(m, want) {
		t.Errorf("read %s\nwant %s", prototext.Format(m), prototext.Format(want))
	}
	// A cgroup without some of the controllers has no files of theirs.
	if m, err := readCgroup(cgroup(map[string]string{"io.stat": "", "memory.peak": ""}), name); err != nil || m.Memory.MaxUsage != 0 || m.CPU.UsageUsec != 1500 {
		t.Errorf("with fewer files: %v %v", m, err)
	}
	for file, text := range map[string]string{
		"cpu.stat": "usage_usec\n", "memory.stat": "anon -1\n", "memory.current": "a lot\n", "pids.max": "\n",
		"io.stat": "8 rbytes=1\n", "memory.events": strings.Repeat("low 0\n", 20000),
	} {
		if m, err := readCgroup(cgroup(map[string]string{file: text}), name); !errors.Is(err, ErrForm) {
			t.Errorf("%s %.20q: %v %v", file, text, m, err)
		}
	}
}

func TestCgroupOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, unit string
		want       bool
	}{
		{"0::/" + name + "\n", "secexec-web.service", true},
		{"9:name=systemd:/\n0::/" + name + "\n", "secexec-web.service", true},
		{"0::/" + name + "\n", "secexec-other.service", false},
		{"0::/system.slice/hostagent.service\n", "", false},
		{"0::/\n", "", false},
		{"0::/../secexec-web.service\n", "secexec-web.service", false},
		{"4:memory:/" + name + "\n", "secexec-web.service", false},
	} {
		if got, ok := cgroupOf([]byte(c.text), c.unit); ok != c.want || ok && got != name {
			t.Errorf("%q %q: %q %v", c.text, c.unit, got, ok)
		}
	}
}

func TestGuest(t *testing.T) {
	t.Parallel()
	if m, err := Guest(&hostagentv1.GuestUsage{State: "stopped"}, ""); err != nil || !proto.Equal(m, new(stats.Metrics)) {
		t.Errorf("of a guest that does not run: %v %v", m, err)
	}
	m, err := Guest(&hostagentv1.GuestUsage{
		Pid: math.MaxInt32, CpuNs: 1_500_000, MemoryBytes: 5, MemoryMaxBytes: 9, Threads: 4,
		DiskKnown: true, DiskReadBytes: 1, DiskWriteBytes: 2, NetworkKnown: true, NetworkInBytes: 3, NetworkOutBytes: 4,
	}, "")
	want := &stats.Metrics{
		Pids: &stats.PidsStat{Current: 4}, CPU: &stats.CPUStat{UsageUsec: 1500}, Memory: &stats.MemoryStat{Anon: 5, Usage: 5, UsageLimit: 9},
		Io: &stats.IOStat{Usage: []*stats.IOEntry{{Rbytes: 1, Wbytes: 2}}}, Network: []*stats.NetworkStat{{Name: "eth0", RxBytes: 3, TxBytes: 4}},
	}
	if err != nil || !proto.Equal(m, want) {
		t.Errorf("of a process: %v %v", m, err)
	}
	if m, err := Self(); err != nil || m.Memory.Usage == 0 {
		t.Errorf("of this process: %v %v", m, err)
	}
}

// Whatever the files hold, what is read of them is a number where it was one.
func FuzzCgroup(f *testing.F) {
	f.Add(files["cpu.stat"], files["io.stat"])
	f.Add("anon 18446744073709551615\n", "8:16 rbytes=1 wbytes=x\n")
	f.Fuzz(func(t *testing.T, lines, io string) {
		if err := fill(new(stats.MemoryStat), []byte(lines)); err != nil && !errors.Is(err, ErrForm) {
			t.Errorf("error %v", err)
		}
		entries, err := parseIO([]byte(io))
		if err == nil && len(entries) > strings.Count(io, "\n")+1 {
			t.Errorf("%d entries of %q", len(entries), io)
		}
		cgroupOf([]byte(lines), "x")
	})
}
