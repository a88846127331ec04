package metrics

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/journal"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// full is hostagent's metrics with each of them having a line.
func full() *Set {
	s := New("1.0")
	for _, stage := range []string{"starting", "unpacked", "ready", "nonsense"} {
		s.Stage(stage, 1500*time.Millisecond)
	}
	s.Command("query-status", time.Millisecond, nil)
	s.Command("cont", -time.Second, errors.New("no"))
	s.Dropped()
	s.Call("Get", "H204", time.Microsecond)
	s.Call("List", "ok", time.Second)
	s.Stream("Events", "slow")
	for _, e := range journal.Events() {
		s.Event(e, map[string]string{"code": "G108", "is": "failed"})
	}
	s.Event(journal.Failed.Value.Any().(journal.Event), map[string]string{"code": "G999"})
	s.Guests(func() []*hostagentv1.GuestUsage {
		return []*hostagentv1.GuestUsage{
			{Name: "a", State: "ready", Pid: 7, CpuNs: 1_500_000_000, Cpus: 2, MemoryBytes: 1 << 30, MemoryMaxBytes: 2 << 30, Threads: 5, UptimeMs: 2500, DiskKnown: true, DiskReadBytes: 10, DiskWriteBytes: 20, NetworkKnown: true, NetworkInBytes: 30, NetworkOutBytes: 40},
			{Name: "b", State: "ready", Pid: 8},
			{Name: "c", State: "stopped", MemoryMaxBytes: 1 << 30},
		}
	})
	s.Process()
	s.Problems(func() map[string]bool { return map[string]bool{"state": false, "node": true} })
	return s
}

// scraped reads the text format strictly: name and labels to value.
func scraped(t *testing.T, text []byte) (values map[string]float64, kinds map[string]string) {
	t.Helper()
	values, kinds = make(map[string]float64), make(map[string]string)
	form := regexp.MustCompile(`^([a-z_]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+\})? ([0-9.e+-]+)$`)
	helped, name := "", ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		switch m := form.FindStringSubmatch(line); {
		case strings.HasPrefix(line, "# HELP "):
			helped = strings.Fields(line)[2]
		case strings.HasPrefix(line, "# TYPE "):
			name = strings.Fields(line)[2]
			if name != helped || kinds[name] != "" {
				t.Errorf("type of %s after help of %s, or twice", name, helped)
			}
			kinds[name] = strings.Fields(line)[3]
		case m == nil || strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(m[1], "_bucket"), "_sum"), "_count") != name:
			t.Errorf("line %q of %s", line, name)
		default:
			v, err := strconv.ParseFloat(m[3], 64)
			if _, twice := values[m[1]+m[2]]; err != nil || twice {
				t.Errorf("line %q: %v, or twice", line, err)
			}
			values[m[1]+m[2]] = v
		}
	}
	return values, kinds
}

func TestText(t *testing.T) {
	t.Parallel()
	values, kinds := scraped(t, full().Text())
	for series, want := range map[string]float64{
		`secexec_guests{state="ready"}`: 2, `secexec_guests{state="stopped"}`: 1, `secexec_guests{state="failed"}`: 0,
		`secexec_launch_stage_seconds_bucket{stage="ready",le="1"}`: 0, `secexec_launch_stage_seconds_bucket{stage="ready",le="2.5"}`: 1,
		`secexec_launch_stage_seconds_bucket{stage="ready",le="+Inf"}`: 1, `secexec_launch_stage_seconds_sum{stage="ready"}`: 1.5,
		`secexec_launch_stage_seconds_count{stage="other"}`: 1,
		`secexec_qmp_seconds_count`:                         2, `secexec_qmp_seconds_sum`: .001, `secexec_qmp_failures_total`: 1, `secexec_qmp_events_dropped_total`: 1,
		`secexec_api_calls_total{method="Get",code="H204"}`: 1, `secexec_api_calls_total{method="Events",code="slow"}`: 1,
		`secexec_api_seconds_bucket{method="List",le="1"}`: 1, `secexec_api_seconds_bucket{method="List",le="0.5"}`: 0,
		`secexec_adoptions_total`: 1, `secexec_settlements_total{outcome="failed"}`: 1, `secexec_restarts_total`: 1, `secexec_slow_clients_total`: 1,
		`secexec_guest_failures_total{code="G108"}`: 1, `secexec_guest_failures_total{code="other"}`: 1, `secexec_damaged_records_total`: 1,
		`secexec_guest_cpu_seconds_total{guest="a"}`: 1.5, `secexec_guest_memory_bytes{guest="a"}`: 1 << 30, `secexec_guest_network_out_bytes_total{guest="a"}`: 40,
		`secexec_healthy{check="state"}`: 0, `secexec_healthy{check="node"}`: 1, `secexec_callers_turned_away_total`: 1,
	} {
		if got, ok := values[series]; !ok || got != want {
			t.Errorf("%s is %v %t, want %v", series, got, ok, want)
		}
	}
	for _, absent := range []string{`secexec_guest_threads{guest="c"}`, `secexec_guest_disk_read_bytes_total{guest="b"}`} {
		if _, ok := values[absent]; ok {
			t.Errorf("%s is there", absent)
		}
	}
	if values["process_resident_memory_bytes"] < 1<<20 || values["process_open_fds"] < 3 || values["go_goroutines"] < 1 || values["process_max_fds"] < 10 {
		t.Errorf("own: %v", values)
	}
	for _, d := range full().Descs() {
		if kinds[d.Name] != d.Kind {
			t.Errorf("%s is a %s, said to be %q", d.Name, d.Kind, kinds[d.Name])
		}
	}
}

// Label values stay in their quotes, and their number is bounded.
func TestLabels(t *testing.T) {
	t.Parallel()
	var r Registry
	c := r.Counter("x_total", "A \\ and a\nline end.", "l")
	c.Inc("a\"} 1\nevil 1\\\xff")
	if got, want := string(r.Text()), "# HELP x_total A \\\\ and a\\nline end.\n# TYPE x_total counter\nx_total{l=\"a\\\"} 1\\nevil 1\\\\\ufffd\"} 1\n"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for i := range 3 * maxSeries {
		c.Inc(strconv.Itoa(i))
	}
	if n := bytes.Count(r.Text(), []byte("\nx_total{")); n != maxSeries+1 {
		t.Errorf("%d series", n)
	}
	if !bytes.Contains(r.Text(), []byte(`{l="other"} 1025`)) {
		t.Error("what is beyond the bound is not counted")
	}
}

// Prometheus's own reader takes what a scrape gives.
func TestPromtool(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool (Debian: prometheus)")
	}
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = bytes.NewReader(full().Text())
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// The page lists each metric with its type and labels, and no other.
func TestDocs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)`(?: `\\{([a-z,]+)\\}`)? \\| ([a-z]+) \\|").FindAllStringSubmatch(string(text), -1) {
		listed[m[1]] = m[3] + " " + m[2]
	}
	for _, d := range full().Descs() {
		if want := d.Kind + " " + strings.Join(d.Labels, ","); listed[d.Name] != want {
			t.Errorf("%s: the page says %q, it is %q", d.Name, listed[d.Name], want)
		}
		delete(listed, d.Name)
	}
	if len(listed) > 0 {
		t.Errorf("the page lists what there is not: %v", listed)
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text                    string
		remote                  bool
		network, address, words string
	}{
		{"", false, "", "", ""},
		{"unix:/run/m.sock", false, "unix", "/run/m.sock", ""},
		{"unix:m.sock", false, "", "", "no absolute path"},
		{"127.0.0.1:9745", false, "tcp", "127.0.0.1:9745", ""},
		{"[::1]:9745", false, "tcp", "[::1]:9745", ""},
		{"0.0.0.0:9745", false, "", "", "set metrics_remote"},
		{"10.0.0.1:9745", false, "", "", "set metrics_remote"},
		{"[::ffff:10.0.0.1]:1", false, "", "", "set metrics_remote"},
		{"0.0.0.0:9745", true, "tcp", "0.0.0.0:9745", ""},
		{"localhost:9745", true, "", "", "neither"},
		{":9745", true, "", "", "neither"},
		{"/run/m.sock", false, "", "", "neither"},
	} {
		network, address, err := Address(c.text, c.remote)
		if c.words != "" {
			if !errors.Is(err, ErrAddress) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%q: %v", c.text, err)
			}
		} else if err != nil || network != c.network || address != c.address {
			t.Errorf("%q: %s %s %v", c.text, network, address, err)
		}
	}
}

// serving is a socket that serves metrics.
func serving(t *testing.T, s *Set) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sock")
	l, err := Listen("unix", path, os.Getegid())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Serve(ctx, l); close(done) }()
	t.Cleanup(func() { cancel(); <-done; os.RemoveAll(dir) })
	return path
}

func asked(t *testing.T, path, request string) string {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, request)
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

func TestServe(t *testing.T) {
	t.Parallel()
	path := serving(t, full())
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v %v", info, err)
	}
	if _, err := Listen("unix", path, -1); err == nil || !strings.Contains(err.Error(), "another program serves it") {
		t.Errorf("a socket in use: %v", err)
	}
	got := asked(t, path, "GET /metrics?name[]=x HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n")
	head, body, _ := strings.Cut(got, "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") || !strings.Contains(head, "Content-Length: "+strconv.Itoa(len(body))) || !strings.Contains(head, ContentType) {
		t.Errorf("head %q", head)
	}
	if _, kinds := scraped(t, []byte(body)); len(kinds) != len(full().Descs()) {
		t.Errorf("%d metrics", len(kinds))
	}
	for request, want := range map[string]string{
		"HEAD /metrics HTTP/1.0\r\n\r\n":                              "HTTP/1.1 200 OK",
		"GET / HTTP/1.1\r\n\r\n":                                      "HTTP/1.1 404 Not Found",
		"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n":         "HTTP/1.1 405 Method Not Allowed",
		"GET /metrics\r\n\r\n":                                        "HTTP/1.1 400 Bad Request",
		"GET /metrics HTTP/2.0\r\n\r\n":                               "HTTP/1.1 400 Bad Request",
		"GET /metrics HTTP/1.1\r\nno header\r\n\r\n":                  "HTTP/1.1 400 Bad Request",
		"GET /" + strings.Repeat("x", 2*maxOneHeader):                 "HTTP/1.1 400 Bad Request",
		"GET / HTTP/1.1\r\n" + strings.Repeat("a: b\r\n", maxRequest): "HTTP/1.1 400 Bad Request",
	} {
		if got := asked(t, path, request); !strings.HasPrefix(got, want+"\r\n") && got != "" { // a large request may be cut off while it is sent
			t.Errorf("%.40q: %.80q", request, got)
		} else if got == "" && len(request) < maxOneHeader {
			t.Errorf("%.40q: no answer", request)
		}
	}
}

// Connections that say nothing hold up no scrape for longer than their time, and
// take no more than their places.
func TestServeIdle(t *testing.T) {
	t.Parallel()
	path := serving(t, New("1"))
	var idle []net.Conn
	for range maxScrapes - 1 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	if got := asked(t, path, "GET /metrics HTTP/1.1\r\n\r\n"); !strings.Contains(got, "secexec_build_info") {
		t.Errorf("beside idle connections: %q", got)
	}
	for _, c := range idle {
		c.Close()
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
	f.Add([]byte("GET /metrics\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		method, path, err := readRequest(bytes.NewReader(b))
		if err == nil && (len(method)+len(path) > maxOneHeader || strings.ContainsAny(method+path, " \n")) {
			t.Errorf("%q %q", method, path)
		}
		if err != nil && !errors.Is(err, errRequest) {
			t.Error(err)
		}
	})
}

// A scrape reads what guests take once.
func TestGuestsAreReadOnce(t *testing.T) {
	t.Parallel()
	s, reads := New("1"), 0
	s.Guests(func() []*hostagentv1.GuestUsage { reads++; return []*hostagentv1.GuestUsage{{Name: "a"}} })
	if _ = s.Text(); reads == 0 || reads > 3 { // a slow machine may need more than usageAge
		t.Errorf("%d reads", reads)
	}
}
