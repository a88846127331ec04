package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
)

// readings are two of a node with guests of every kind.
func readings() (before, now *hostagentv1.UsageResponse) {
	web := func(cpu, read uint64, up uint64) *hostagentv1.GuestUsage {
		return &hostagentv1.GuestUsage{
			Name: "web", Uuid: "1", State: "ready", Pid: 10, Cpus: 2, CpuNs: cpu, MemoryBytes: 600 << 20, MemoryMaxBytes: 1 << 30, Threads: 6, UptimeMs: up,
			DiskKnown: true, DiskReadBytes: read, DiskWriteBytes: 3 << 20, NetworkKnown: true, NetworkInBytes: 2 * read, NetworkOutBytes: 999,
		}
	}
	before = &hostagentv1.UsageResponse{TimeUnixNs: 1_000_000_000_000_000_000, Guests: []*hostagentv1.GuestUsage{
		web(5e9, 1<<20, 60_000),
		{Name: "again", Uuid: "2", State: "running", Pid: 11, CpuNs: 9e9, UptimeMs: 90_000},
	}}
	now = &hostagentv1.UsageResponse{TimeUnixNs: before.TimeUnixNs + 2e9, NodeCpus: 4, NodeMemoryBytes: 16 << 30, Guests: []*hostagentv1.GuestUsage{
		{Name: "again", Uuid: "2", State: "starting", Pid: 12, CpuNs: 1e8, UptimeMs: 500, MemoryBytes: 50 << 20, MemoryMaxBytes: 512 << 20, Threads: 3},
		{Name: "broken\x1b[2J", Uuid: "4", State: "failed", MemoryMaxBytes: 1 << 30},
		{Name: strings.Repeat("long-name-", 6), Uuid: "3", State: "stopping", Pid: 13, CpuNs: 3e12, UptimeMs: 3_000_000, MemoryBytes: 40 << 30, MemoryMaxBytes: 64 << 30, Threads: 40, DiskKnown: true},
		web(7e9, 5<<20, 62_000),
	}}
	return before, now
}

func TestUses(t *testing.T) {
	t.Parallel()
	all := uses(readings())
	sortUses(all, 'c')
	var got []string
	for _, u := range all {
		got = append(got, fmt.Sprintf("%.4s %.0f %.0f", u.Name, u.cpu, u.diskRead))
	}
	// web: 2 s of 2; long: 3000 s of 3000; again: started since, 0.1 s of 0.5.
	if want := "long 100 0,web 100 2097152,agai 20 0,brok 0 0"; strings.Join(got, ",") != want {
		t.Errorf("%s, want %s", strings.Join(got, ","), want)
	}
}

func TestTopLines(t *testing.T) {
	t.Parallel()
	before, now := readings()
	var b strings.Builder
	for _, size := range []struct {
		width, height int
		by            byte
	}{{80, 24, 'c'}, {120, 24, 'm'}, {80, 7, 'n'}, {20, 3, 'c'}} {
		all := uses(before, now)
		sortUses(all, size.by)
		lines := topLines(all, now, size.by, size.width, size.height)
		if len(lines) > size.height {
			t.Errorf("%d lines in %v", len(lines), size)
		}
		for _, line := range lines {
			if n := len([]rune(line)); n > size.width || strings.ContainsRune(line, '\x1b') {
				t.Errorf("%d characters in %v: %q", n, size, line)
			}
		}
		fmt.Fprintf(&b, "-- %dx%d by %c --\n%s\n", size.width, size.height, size.by, strings.Join(lines, "\n"))
	}
	const golden = "testdata/top.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || b.String() != string(want) {
		t.Errorf("%v, got:\n%s", err, b.String())
	}
}

func TestShort(t *testing.T) {
	t.Parallel()
	for n, want := range map[float64]string{0: "0", 999: "999", 1000: "1.0K", 1024: "1.0K", 10 << 10: "10K", 999 << 20: "999M", 1000 << 20: "1.0G", 16 << 30: "16G", 1 << 63: "8192P"} {
		if got := shortBytes(n); got != want {
			t.Errorf("%.0f bytes are %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 59 * time.Second: "59s", time.Hour - 1: "59m59s", 25*time.Hour - 1: "1d", 5*time.Hour + 7*time.Minute: "5h07m", 24000 * time.Hour: "1000d"} {
		if got := shortTime(uint64(d.Milliseconds())); got != want {
			t.Errorf("%s is %s, want %s", d, got, want)
		}
	}
}

// usageNode serves the two readings in turn.
type usageNode struct{ calls atomic.Int64 }

func (n *usageNode) Usage(_ context.Context, r *hostagentv1.UsageRequest) (*hostagentv1.UsageResponse, error) {
	before, now := readings()
	now.TimeUnixNs += n.calls.Load()
	if n.calls.Add(1) == 1 {
		before.Guests = append(before.Guests, &hostagentv1.GuestUsage{Name: "broken\x1b[2J", State: "failed"})
		now = before
	}
	if len(r.Names) > 0 {
		now.Guests = slices.DeleteFunc(now.Guests, func(g *hostagentv1.GuestUsage) bool { return !slices.Contains(r.Names, g.Name) })
	}
	return now, nil
}

func serveNode(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "n")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	hostagentv1.RegisterStatsService(server, &usageNode{})
	go func() { _ = server.Serve(context.Background(), l) }()
	t.Cleanup(func() { server.Close(); os.RemoveAll(dir) })
	return socket
}

func called(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs(append(args, "--socket", serveNode(t)))
	root.SetOut(&out)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestStats(t *testing.T) {
	t.Parallel()
	out, err := called(t, "stats", "--no-stream")
	if err != nil || strings.Count(out, "\n") != 3 || !strings.Contains(out, "web    ") || !strings.Contains(out, "8.33%") /* 5 s of 60 */ || strings.Contains(out, "broken") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := called(t, "stats", "--no-stream", "-a"); err != nil || !strings.Contains(out, "broken\ufffd[2J") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = called(t, "stats", "--no-stream", "--format", "json", "web")
	var parsed []map[string]any
	if e := json.Unmarshal([]byte(out), &parsed); err != nil || e != nil || len(parsed) != 1 || parsed[0]["cpu_percent"].(float64) < 8 || parsed[0]["disk_read_bytes"] != float64(1<<20) {
		t.Errorf("%v %v\n%s", err, e, out)
	}
	for _, args := range [][]string{{"stats", "--format", "yaml"}, {"stats", "-i", "0s"}, {"top", "-d", "-1s"}, {"top", "guest"}} {
		if _, err := called(t, args...); statusOf(err) != exitUsage {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestTopIsPlainWithoutTerminal(t *testing.T) {
	t.Parallel()
	out, err := called(t, "top", "-n", "2", "-d", "1ms")
	if err != nil || strings.Count(out, "secexec top") != 2 || strings.Contains(out, "\x1b") {
		t.Errorf("%v\n%s", err, out)
	}
}

// On a terminal top takes the other screen, sorts by keys and gives all back at q.
func TestTopOnTerminal(t *testing.T) {
	t.Parallel()
	master, slave := openPTY(t)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	root := newRoot()
	root.SetArgs([]string{"top", "-d", "50ms", "--socket", serveNode(t)})
	root.SetIn(slave)
	root.SetOut(slave)
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(t.Context()) }()
	var drawn strings.Builder
	sees := func(want string) {
		t.Helper()
		b := make([]byte, 8192)
		for !strings.Contains(drawn.String(), want) {
			_ = master.SetReadDeadline(time.Now().Add(20 * time.Second))
			n, err := master.Read(b)
			if err != nil {
				t.Fatalf("%q does not show: %v after %q", want, err, drawn.String())
			}
			drawn.Write(b[:n])
		}
	}
	sees("\x1b[?1049h")
	sees("CPU%▾")
	_, _ = io.WriteString(master, "m")
	sees("MEM▾")
	_, _ = io.WriteString(master, "q")
	sees("\x1b[?1049l")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS); err != nil || *after != *before {
		t.Errorf("terminal left as %+v, %v", after, err)
	}
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func TestEventWords(t *testing.T) {
	t.Parallel()
	g := func(state string, stages ...string) *hostagentv1.Guest {
		out := &hostagentv1.Guest{Name: "web", State: state}
		for i, s := range stages {
			out.Stages = append(out.Stages, &hostagentv1.Stage{Name: s, Millis: uint64(100 * (i + 1))})
		}
		return out
	}
	failed := g("failed", "starting")
	failed.Failure = &hostagentv1.Failure{Code: "G108", Message: "guest web stopped: the root disk is another"}
	again := g("starting")
	again.StartedUnixMs, again.Restarts = 1, 2
	for want, e := range map[string][2]*hostagentv1.Guest{
		"starting":                               {g("created"), g("starting")},
		"starting, restart 2":                    {g("waiting", "starting"), again},
		"starting, reached unpacked after 0.2 s": {g("starting", "starting"), g("starting", "starting", "unpacked")},
		"running":                                {g("starting", "starting", "unpacked"), g("running", "starting", "unpacked")},
		"ready, reached kernel after 0.2 s, reached ready after 0.3 s": {g("running", "starting"), g("ready", "starting", "kernel", "ready")},
		"running, reached kernel after 0.2 s":                          {nil, g("running", "starting", "kernel")},
		"failed (G108): guest web stopped: the root disk is another":   {g("running"), failed},
	} {
		if got := eventWords(e[0], &hostagentv1.Event{Guest: e[1]}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := stateWord(g("running", "starting", "handover", "secrets")); got != "running, waits for secrets" {
		t.Errorf("a guest that waits is %q", got)
	}
	if got := eventWords(nil, &hostagentv1.Event{Guest: g("stopped"), Deleted: true}); got != "removed" {
		t.Error(got)
	}
}
