package guest

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/proto/readiness"
)

// machine is a QEMU with a guest in it, both of them scripted: it serves the two
// sockets that hostagent knows a guest by.
type machine struct {
	*process
	dir   string
	lines func(m *machine, line string) // what the guest does at a line from the host
	stuck bool                          // QEMU does not answer quit

	mu      sync.Mutex
	qmp     net.Conn
	port    net.Conn
	channel net.Conn
	sockets []net.Listener
	quits   int
}

// bootsUp is a guest that is ready as soon as anybody asks, answers challenges
// and powers off when told.
func bootsUp(m *machine, line string) {
	switch verb, rest, _ := strings.Cut(line, " "); verb {
	case "PING":
		for i, stage := range readiness.Stages {
			m.say(readiness.Stage{Name: stage, Millis: uint64(i)}.String())
		}
		m.say(readiness.Pong{Token: rest}.String())
	case "CHALLENGE":
		nonce, _ := hex.DecodeString(rest)
		m.say(readiness.Report{COSE: append([]byte("report over "), nonce...)}.String())
	case "POWEROFF":
		m.say("BYE")
		m.shutdown("guest-shutdown")
	}
}

// says is a guest that says some lines when asked and does no more.
func says(lines ...string) func(*machine, string) {
	return func(m *machine, line string) {
		if strings.HasPrefix(line, "PING") {
			for _, l := range lines {
				m.say(l)
			}
		}
	}
}

// then lets a guest end after it has said some lines.
func then(reason string, lines ...string) func(*machine, string) {
	talk := says(lines...)
	return func(m *machine, line string) {
		talk(m, line)
		if strings.HasPrefix(line, "PING") {
			m.shutdown(reason)
		}
	}
}

func (m *machine) say(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.port != nil {
		_, _ = io.WriteString(m.port, line+"\n")
	}
}

// shutdown ends the machine as QEMU does: first the event, then the process.
func (m *machine) shutdown(reason string) {
	m.mu.Lock()
	if m.qmp != nil {
		if reason == "guest-panic" {
			fmt.Fprintf(m.qmp, `{"event":"GUEST_PANICKED","data":{"action":"shutdown","info":{"type":"s390","reason":"disabled-wait","psw-addr":17,"core":0,"psw-mask":0}},"timestamp":{"seconds":1,"microseconds":2}}`+"\r\n")
		}
		fmt.Fprintf(m.qmp, `{"event":"SHUTDOWN","data":{"guest":true,"reason":%q},"timestamp":{"seconds":1,"microseconds":2}}`+"\r\n", reason)
	}
	m.mu.Unlock()
	m.vanish()
}

// vanish ends the machine without a word.
func (m *machine) vanish() {
	m.mu.Lock()
	for _, s := range m.sockets {
		s.Close()
	}
	for _, c := range []net.Conn{m.qmp, m.port, m.channel} {
		if c != nil {
			c.Close()
		}
	}
	m.mu.Unlock()
	_ = m.process.Kill(context.Background())
}

// Kill ends the machine by force.
func (m *machine) Kill(context.Context) error { m.vanish(); return nil }

// handed finds the sockets among the files that QEMU is handed.
func handed(files []*os.File) func(name string) (net.Listener, error) {
	return func(name string) (net.Listener, error) {
		for _, f := range files {
			if filepath.Base(f.Name()) == name {
				return net.FileListener(f)
			}
		}
		return nil, fmt.Errorf("no %s among QEMU's files", name)
	}
}

func (m *machine) serve(socket func(name string) (net.Listener, error)) error {
	for name, do := range map[string]func(net.Conn){qmpSocket: m.serveQMP, readinessSocket: m.servePort, channelSocket: m.serveChannel} {
		l, err := socket(name)
		if err != nil {
			return err
		}
		m.mu.Lock()
		m.sockets = append(m.sockets, l)
		m.mu.Unlock()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				do(c)
			}
		}()
	}
	return nil
}

// serveChannel is a guest that says back what it hears.
func (m *machine) serveChannel(c net.Conn) {
	m.mu.Lock()
	m.channel = c
	m.mu.Unlock()
	defer c.Close()
	_, _ = io.Copy(c, c)
}

func (m *machine) serveQMP(c net.Conn) {
	defer c.Close()
	m.mu.Lock()
	m.qmp = c
	fmt.Fprint(c, `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}`+"\r\n")
	m.mu.Unlock()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		var command struct {
			Execute string
			ID      uint64
		}
		if json.Unmarshal(lines.Bytes(), &command) != nil {
			return
		}
		m.mu.Lock()
		fmt.Fprintf(c, `{"return":{},"id":%d}`+"\r\n", command.ID)
		if command.Execute == "quit" {
			m.quits++
		}
		m.mu.Unlock()
		if command.Execute == "quit" && !m.stuck {
			m.shutdown("host-qmp-quit")
		}
	}
}

func (m *machine) servePort(c net.Conn) {
	defer c.Close()
	m.mu.Lock()
	m.port = c
	m.mu.Unlock()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		m.lines(m, lines.Text())
	}
}

// room is a launcher of machines.
type room struct {
	runtime string
	guests  []func(*machine, string) // one for each start; the last one for all further ones
	stuck   bool
	deaf    bool // QEMU makes no sockets

	mu       sync.Mutex
	machines []*machine
}

func newRoom(t *testing.T, guests ...func(*machine, string)) *room {
	t.Helper()
	dir, err := os.MkdirTemp("", "g") // short: sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	r := &room{runtime: dir, guests: guests}
	t.Cleanup(func() {
		for _, m := range r.alive() {
			m.vanish()
		}
		os.RemoveAll(dir)
	})
	return r
}

func (r *room) Start(_ context.Context, spec launch.Spec) (launch.Process, error) {
	if !slices.Contains(spec.Argv, spec.UUID) {
		return nil, errors.New("no UUID among the arguments")
	}
	return r.add(spec.Name, spec.Files...)
}

// add starts a machine. All have this process's number, as QMP's peer has; the
// start time tells them apart.
func (r *room) add(name string, files ...*os.File) (*machine, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.machines)
	m := &machine{process: newProcess(os.Getpid()), dir: filepath.Join(r.runtime, "guests", name), lines: r.guests[min(n, len(r.guests)-1)], stuck: r.stuck}
	m.id.StartTicks = uint64(n + 1)
	r.machines = append(r.machines, m)
	if r.deaf {
		return m, nil
	}
	if len(files) > 0 {
		return m, m.serve(handed(files))
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return m, err
	}
	return m, m.serve(func(name string) (net.Listener, error) { return net.Listen("unix", filepath.Join(m.dir, name)) })
}

func (r *room) Adopt(_ context.Context, id launch.Identity) (launch.Process, error) {
	for _, m := range r.alive() {
		if m.id == id {
			return m, nil
		}
	}
	return nil, launch.ErrGone
}

func (r *room) FindOrphans(context.Context, string) (out []launch.Process, err error) {
	for _, m := range r.alive() {
		out = append(out, m)
	}
	return out, nil
}

func (r *room) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.machines)
}

func (r *room) alive() (out []*machine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.machines {
		select {
		case <-m.exited:
		default:
			out = append(out, m)
		}
	}
	return out
}
