package main

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/settings"
	"github.com/secexec/secexec/hostagent/store"
)

// hostagent as systemd, Prometheus and a client see it, with a guest that failed,
// one that was starting when the last hostagent ended, and a damaged record.
func TestObserved(t *testing.T) {
	if _, err := os.Stat("/sys/firmware/uv"); err == nil {
		t.Skip("this node has Secure Execution: wants one that hostagent finds unfit")
	}
	dir := shortDir(t)
	st, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	for name, state := range map[string]string{"a": "stopped", "b": "starting", "broken": "stopped"} {
		rec := &store.Guest{Name: name, UUID: name, State: state, Image: "boot.seimg"}
		if err := os.MkdirAll(st.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := st.Save(rec); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(st.Dir("broken"), "guest.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	st.Close()

	notified := filepath.Join(dir, "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notified, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	t.Setenv("NOTIFY_SOCKET", notified)
	t.Setenv("WATCHDOG_USEC", "2000000")
	hear := func(want string) {
		t.Helper()
		b := make([]byte, 4096)
		_ = systemd.SetReadDeadline(time.Now().Add(30 * time.Second))
		for {
			n, err := systemd.Read(b)
			if err != nil {
				t.Fatalf("%q is not heard: %v", want, err)
			}
			if strings.HasPrefix(string(b[:n]), want) {
				return
			}
			if string(b[:n]) != "WATCHDOG=1" {
				t.Errorf("heard %q before %q", b[:n], want)
			}
		}
	}

	s := settings.Default()
	s.State, s.Runtime, s.Socket = filepath.Join(dir, "state"), filepath.Join(dir, "run"), filepath.Join(dir, "sock")
	s.Metrics = "unix:" + filepath.Join(dir, "metrics")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, &s) }()
	hear("READY=1\nSTATUS=2 guests: 1 failed, 1 stopped; platform se; node can't run guests: no Secure Execution on this node")
	hear("WATCHDOG=1")

	c, err := client.Dial(ctx, s.Socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Get(ctx, "nobody"); err == nil {
		t.Error("there is a guest nobody")
	}
	use, err := c.Usage(ctx)
	if err != nil || len(use.Guests) != 2 || use.Guests[0].Name != "a" || use.Guests[1].State != "failed" || use.Guests[0].Pid != 0 {
		t.Errorf("usage %v, %v", use, err)
	}
	if _, err := c.Usage(ctx, "a", "nobody"); err == nil || !strings.Contains(err.Error(), "H204") {
		t.Errorf("usage of nobody: %v", err)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(s.Metrics, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET /metrics HTTP/1.1\r\n\r\n")
	text, _ := io.ReadAll(conn)
	conn.Close()
	for _, want := range []string{
		`secexec_guests{state="failed"} 1`, `secexec_settlements_total{outcome="failed"} 1`, `secexec_damaged_records_total 1`,
		`secexec_healthy{check="node"} 0`, `secexec_healthy{check="records"} 0`, `secexec_healthy{check="state"} 1`, `secexec_healthy{check="alive"} 1`,
		`secexec_api_calls_total{method="Get",code="H204"} 1`, `secexec_api_calls_total{method="Usage",code="ok"} 1`,
		`secexec_build_info{version="devel"`,
	} {
		if !strings.Contains(string(text), "\n"+want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	for _, state := range guest.States { // a graph of states has each
		if !strings.Contains(string(text), `secexec_guests{state="`+string(state)+`"}`) {
			t.Errorf("no guests of state %s", state)
		}
	}
	if err := c.Delete(ctx, "a"); err != nil {
		t.Error(err)
	}
	hear("STATUS=1 guest: 1 failed; platform se")
	cancel()
	hear("STOPPING=1")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
