package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// node is a provider's node in a folder: a hostagent that can be killed, and
// QEMUs that are none.
type node struct {
	t      *testing.T
	dir    string
	bundle string
	args   []string
	agent  *exec.Cmd
	ended  chan struct{} // closed when agent has
	log    *os.File
}

// withProcesses skips where the test binary can't be a node's processes.
func withProcesses(t *testing.T) {
	t.Helper()
	if why := lacking(); why != "" {
		t.Skip(why)
	}
}

var lacking = sync.OnceValue(func() string {
	fd, err := unix.PidfdOpen(os.Getpid(), unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Sprintf("pidfd_open does not work here (%v): needs Linux 5.10 and no emulation of system calls", err)
	}
	unix.Close(fd)
	if err := exec.Command(os.Args[0], "-test.list", "^$").Run(); errors.Is(err, syscall.ENOEXEC) {
		return "the kernel cannot run this test's own program: emulation by qemu-user without binfmt_misc"
	}
	return ""
})

func newNode(t *testing.T, args ...string) *node {
	t.Helper()
	withProcesses(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: shortDir(t), args: args}
	if err := os.Symlink(self, n.path(qemuName)); err != nil {
		t.Fatal(err)
	}
	n.bundle = smallBundle(t)
	if n.log, err = os.OpenFile(n.path("log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.kill()
		for _, p := range n.qemus("") {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		if t.Failed() {
			text, _ := os.ReadFile(n.log.Name())
			t.Logf("hostagent's log ends with:\n%s", text[max(0, len(text)-8<<10):])
		}
	})
	n.boot()
	return n
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

// boot starts hostagent; it serves when a call is answered.
func (n *node) boot() {
	n.t.Helper()
	args := append([]string{
		"--config", n.path("none.yaml"), "--state", n.path("state"), "--runtime", n.path("run"), "--socket", n.path("sock"), "--qemu", n.path(qemuName), "--ready-timeout", "30s",
	}, n.args...)
	if err := os.WriteFile(n.path("none.yaml"), nil, 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.agent = exec.Command(os.Args[0], args...)
	n.agent.Env = append(os.Environ(), roleEnv+"=hostagent", armEnv+"="+n.path("arm"))
	n.agent.Stdout, n.agent.Stderr = n.log, n.log
	if err := n.agent.Start(); err != nil {
		n.t.Fatal(err)
	}
	ended, agent := make(chan struct{}), n.agent
	n.ended = ended
	go func() { _ = agent.Wait(); close(ended) }()
}

// kill ends hostagent as nothing else does.
func (n *node) kill() {
	_ = n.agent.Process.Kill()
	<-n.ended
}

// dial connects to hostagent and waits for it to serve; it gives up when
// hostagent has ended.
func (n *node) dial() (*client.Client, error) {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		c, err := client.Dial(context.Background(), n.path("sock"), nil)
		if err == nil {
			// A process that the one before was just starting when it was killed has
			// its socket until it becomes another program.
			if _, err = c.List(context.Background()); err == nil {
				return c, nil
			}
			c.Close()
		}
		select {
		case <-n.ended:
			return nil, errKilled
		default:
		}
		if time.Now().After(end) {
			return nil, err
		}
	}
}

var errKilled = errors.New("hostagent was killed")

// do makes calls; it fails with errKilled if hostagent was killed meanwhile.
func (n *node) do(calls func(ctx context.Context, c *client.Client) error) error {
	c, err := n.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	select {
	case <-n.ended: // it is the next one that answers: nobody waits for what it would be told
		return errKilled
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ended := n.ended
	go func() {
		select {
		case <-ended:
			c.Close()
		case <-ctx.Done():
		}
	}()
	err = calls(ctx, c)
	if err != nil {
		select {
		case <-n.ended:
			return errKilled
		case <-time.After(0):
		}
		if errors.Is(err, client.ErrClosed) {
			select {
			case <-n.ended: // its end is about to be seen
			case <-time.After(2 * time.Second): // it was the one before that took the call
			}
			return errKilled
		}
	}
	return err
}

// must is do where hostagent is not to be killed.
func (n *node) must(calls func(ctx context.Context, c *client.Client) error) {
	n.t.Helper()
	if err := n.do(calls); err != nil {
		n.t.Fatal(err)
	}
}

// becomes waits until a guest's state is one of some.
func becomes(ctx context.Context, c *client.Client, name string, states ...string) (*hostagentv1.Guest, error) {
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(3 * time.Millisecond) {
		g, err := c.Get(ctx, name)
		if err != nil || slices.Contains(states, g.State) {
			return g, err
		}
		if time.Now().After(end) {
			return g, fmt.Errorf("guest %s is %s (%v), wants one of %v", name, g.State, g.Failure, states)
		}
	}
}

// running is a fake QEMU that runs.
type running struct {
	pid  int
	uuid string
}

// qemus lists the fake QEMUs of this node that run, of one UUID or "" all.
func (n *node) qemus(uuid string) (out []running) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		args := strings.Split(string(text), "\x00")
		if err != nil || args[0] != n.path(qemuName) {
			continue
		}
		if i := slices.Index(args, "-uuid"); i > 0 && (uuid == "" || args[i+1] == uuid) {
			out = append(out, running{pid, args[i+1]})
		}
	}
	return out
}

// check compares what hostagent says with what there is: each guest that it
// shows as running has one QEMU, which it names and which answers, the others
// none; and there is no other QEMU. It waits for what is on its way.
func (n *node) check() map[string]*hostagentv1.Guest {
	n.t.Helper()
	var guests map[string]*hostagentv1.Guest
	err := n.do(func(ctx context.Context, c *client.Client) error {
		var wrong error
		for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			list, err := c.List(ctx)
			if err != nil {
				return err
			}
			if guests, wrong = n.compare(ctx, c, list); wrong == nil {
				return nil
			}
		}
		return wrong
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return guests
}

func (n *node) compare(ctx context.Context, c *client.Client, list []*hostagentv1.Guest) (map[string]*hostagentv1.Guest, error) {
	guests, uuids := make(map[string]*hostagentv1.Guest), make(map[string]int)
	for _, q := range n.qemus("") {
		uuids[q.uuid]++
		for _, g := range list {
			if g.Uuid == q.uuid && int(g.Pid) != q.pid {
				return nil, fmt.Errorf("guest %s is %s with QEMU %d, but %d runs", g.Name, g.State, g.Pid, q.pid)
			}
		}
	}
	for _, g := range list {
		guests[g.Name] = g
		running := uuids[g.Uuid]
		delete(uuids, g.Uuid)
		switch g.State {
		case "ready":
			if running != 1 {
				return nil, fmt.Errorf("guest %s is ready, %d QEMUs run", g.Name, running)
			}
			if _, err := c.Challenge(ctx, g.Name, make([]byte, 32)); err != nil {
				return nil, fmt.Errorf("guest %s is ready and does not answer: %w", g.Name, err)
			}
		case "created", "stopped", "failed", "waiting":
			if running != 0 {
				return nil, fmt.Errorf("guest %s is %s, %d QEMUs run", g.Name, g.State, running)
			}
		default:
			return nil, fmt.Errorf("guest %s is still %s", g.Name, g.State)
		}
	}
	if len(uuids) > 0 {
		return nil, fmt.Errorf("QEMUs without a guest: %v", uuids)
	}
	entries, err := os.ReadDir(n.path("state/guests"))
	if err != nil || len(entries) != len(list) {
		return nil, fmt.Errorf("%d guests, %d folders of guests: %w", len(list), len(entries), err)
	}
	return guests, nil
}

// smallBundle writes a bundle whose image no ultravisor will ever see.
func smallBundle(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	part := func(name, text string) bundle.Part {
		p, err := bundle.Describe(t.Context(), name, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	m := bundle.Manifest{
		Version: 1, Name: "g", Image: bundle.Image{Part: part("boot.seimg", "image"), ID: strings.Repeat("0a", 16)},
		Disks:    []bundle.Disk{{Part: part("root.img", strings.Repeat("disk", 128)), Serial: "root", Format: "raw"}},
		KeySlots: []bundle.KeySlot{{HostKeyHash: strings.Repeat("5e", 32), Subject: "CN=host"}},
		Identity: strings.Repeat("1d", 32), MemoryMiB: 64,
	}
	text, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, bundle.ManifestFile), text, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}
