package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// round is a busy time.
func (s *soak) round(d time.Duration) {
	s.finished.Store(false)
	ctx, cancel := context.WithCancel(context.Background())
	var workers sync.WaitGroup
	keep := func(do func()) {
		workers.Go(func() {
			for !s.finished.Load() {
				do()
				s.pause()
			}
		})
	}
	keep(s.live)
	keep(s.live)
	keep(s.misbehave)
	keep(s.disturb)
	keep(s.ask)
	keep(s.blunder)
	workers.Go(func() { s.follow(ctx, true) })
	keep(func() { s.follow(ctx, false) })
	keep(func() { s.scrape(); s.pause() })
	time.Sleep(d)
	s.finished.Store(true)
	cancel()
	workers.Wait()
}

func (s *soak) pause() {
	if s.pace > 0 {
		time.Sleep(rand.N(2 * s.pace))
	}
}

// did counts what was done, and fails the test for any error but a refusal with
// one of some codes.
func (s *soak) did(what string, err error, refusals ...fault.Code) error {
	var f *fault.Error
	refused := errors.As(err, &f)
	if refused {
		what += " " + string(f.Code)
	}
	s.mu.Lock()
	s.done[what]++
	s.mu.Unlock()
	if refused && slices.Contains(refusals, f.Code) {
		return nil
	}
	if err != nil {
		s.t.Errorf("%s: %v", what, err)
	}
	return err
}

// calls makes calls as one client, and counts them as one thing done.
func (s *soak) calls(what string, calls func(ctx context.Context, c *client.Client) error) {
	_ = s.did(what, s.do(calls))
}

// becomes is for longer times than the other one, and asks less often.
func (s *soak) becomes(ctx context.Context, c *client.Client, name string, states ...string) (*hostagentv1.Guest, error) {
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(15 * time.Millisecond) {
		g, err := c.Get(ctx, name)
		if err != nil || slices.Contains(states, g.State) {
			return g, err
		}
		if time.Now().After(end) {
			return g, fmt.Errorf("guest %s is %s (%v), wants one of %v", name, g.State, g.Failure, states)
		}
	}
}

// begin makes a guest and starts it.
func (s *soak) begin(ctx context.Context, c *client.Client, name string) (*hostagentv1.Guest, error) {
	r := &hostagentv1.CreateRequest{Name: name, Bundle: s.bundle, RequestId: client.NewRequestID()}
	if rand.IntN(2) == 0 {
		r.Restart = &hostagentv1.Restart{Policy: "on-failure", Limit: 2}
	}
	if _, err := c.Create(ctx, r); s.did("create", err) != nil {
		return nil, err
	}
	if _, err := c.Start(ctx, name, client.NewRequestID()); s.did("start", err) != nil {
		return nil, err
	}
	return s.becomes(ctx, c, name, "ready", "failed", "waiting")
}

// live is the whole life of a guest.
func (s *soak) live() {
	name := fmt.Sprintf("guest-%d", s.lives.Add(1))
	s.calls("life", func(ctx context.Context, c *client.Client) error {
		g, err := s.begin(ctx, c, name)
		for range 2 {
			if err != nil || g.State != "ready" {
				return cmp.Or(err, fmt.Errorf("guest %s is %s: %v", name, g.State, g.Failure))
			}
			s.pause()
			_, err = c.Challenge(ctx, name, make([]byte, 32))
			if s.did("challenge", err) != nil {
				return err
			}
			pid := g.Pid
			what := []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGHUP, syscall.SIGKILL}[rand.IntN(4)]
			if err := syscall.Kill(int(pid), what); err != nil {
				return err
			}
			_ = s.did(map[syscall.Signal]string{syscall.SIGUSR1: "reboot", syscall.SIGUSR2: "panic", syscall.SIGHUP: "power-off", syscall.SIGKILL: "QEMU's death"}[what], nil)
			for err == nil && g.State != "stopped" && g.State != "failed" && (g.State != "ready" || g.Pid == pid) {
				if g, err = s.becomes(ctx, c, name, "ready", "failed", "stopped", "waiting"); g.GetState() == "waiting" && rand.IntN(2) == 0 {
					break // a restart by policy that is called off
				}
				time.Sleep(15 * time.Millisecond) // before it is seen
			}
			if err == nil && (g.State == "stopped" || g.State == "failed") {
				if _, err = c.Start(ctx, name, ""); err == nil {
					g, err = s.becomes(ctx, c, name, "ready", "failed", "waiting")
				}
			}
			if err == nil && g.State == "waiting" {
				break
			}
		}
		if err != nil {
			return err
		}
		s.pause()
		if rand.IntN(2) == 0 {
			_, err = c.Stop(ctx, name, 5*time.Second)
			err = s.did("stop", err)
		} else {
			_, err = c.Kill(ctx, name)
			err = s.did("kill", err)
		}
		return cmp.Or(err, s.did("delete", c.Delete(ctx, name)))
	})
}

// misbehave is the life of a guest that floods or cheats.
func (s *soak) misbehave() {
	var names []string
	for name := range misdeeds {
		if s.long || !slices.Contains([]string{"silent", "slow", "mute", "long", "longer", "stubborn"}, name) { // they take seconds
			names = append(names, name)
		}
	}
	name := fmt.Sprintf("%s-%d", names[rand.IntN(len(names))], s.lives.Add(1))
	s.calls("misdeed", func(ctx context.Context, c *client.Client) error {
		g, err := s.begin(ctx, c, name)
		if err != nil {
			return err
		}
		if g.State == "ready" {
			time.Sleep(50 * time.Millisecond)
			short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			_, _ = c.Challenge(short, name, make([]byte, 32)) // many can't answer
			cancel()
			_, err := c.Console(ctx, name, -1000, 0)
			_ = s.did("console", err)
		}
		if rand.IntN(2) == 0 {
			_, err = c.Stop(ctx, name, 50*time.Millisecond)
		} else {
			_, err = c.Kill(ctx, name)
		}
		_ = s.did("end of a misdeed", err, fault.WrongState) // it ended already
		return s.did("delete", c.Delete(ctx, name))
	})
}

// disturb has something happen to a resident, and the other one started again.
func (s *soak) disturb() {
	s.calls("disturbance", func(ctx context.Context, c *client.Client) error {
		name := []string{"web", "db"}[rand.IntN(2)]
		g, err := s.becomes(ctx, c, name, "ready", "failed", "stopped")
		switch {
		case err != nil:
			return err
		case g.State != "ready":
			_, err = c.Start(ctx, name, "")
			return s.did("start", err)
		case rand.IntN(4) == 0:
			_, err = c.Kill(ctx, name)
			return s.did("kill", err, fault.WrongState)
		}
		err = syscall.Kill(int(g.Pid), []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGHUP, syscall.SIGKILL}[rand.IntN(4)])
		if errors.Is(err, syscall.ESRCH) {
			return nil
		}
		return err
	})
}

// ask is a client that looks around.
func (s *soak) ask() {
	s.calls("look around", func(ctx context.Context, c *client.Client) error {
		_, list := c.List(ctx)
		_, usage := c.Usage(ctx)
		_, console := c.Console(ctx, "web", 0, 1<<20)
		_, info := c.NodeInfo(ctx)
		_, challenge := c.Challenge(ctx, "db", make([]byte, 32))
		var f *fault.Error
		if errors.As(challenge, &f) && (f.Code == fault.WrongState || f.Code == fault.NoAnswer) {
			challenge = nil
		}
		return errors.Join(list, usage, console, info, challenge)
	})
}

// blunder makes a client's mistakes, and those that no good client makes.
func (s *soak) blunder() {
	s.calls("mistakes", func(ctx context.Context, c *client.Client) error {
		_, err := c.Create(ctx, &hostagentv1.CreateRequest{Name: "nothing", Bundle: s.path("none")})
		_ = s.did("create of nothing", err, fault.Bundle)
		_, err = c.Create(ctx, &hostagentv1.CreateRequest{Name: "web", Bundle: s.bundle, RequestId: client.NewRequestID()})
		_ = s.did("create of another", err, fault.NameTaken)
		_, err = c.Create(ctx, &hostagentv1.CreateRequest{Name: "disk", Bundle: s.bundle, Disks: []*hostagentv1.Disk{{Path: s.path("none"), Serial: "x"}}})
		_ = s.did("create with no disk", err, fault.Path, fault.Disk, fault.BadRequest)
		_, err = c.Start(ctx, "nobody", "")
		_ = s.did("start of nobody", err, fault.NoGuest)
		_, err = c.Kill(ctx, "batch")
		_ = s.did("kill of a created guest", err, fault.WrongState)
		// One that gave up doesn't know whether there is a guest; the id tells.
		hasty := &hostagentv1.CreateRequest{Name: "hasty", Bundle: s.bundle, RequestId: client.NewRequestID()}
		short, cancel := context.WithTimeout(ctx, rand.N(5*time.Millisecond))
		_, _ = c.Create(short, hasty)
		cancel()
		_, err = c.Create(ctx, hasty)
		return cmp.Or(s.did("create, repeated", err), s.did("delete", c.Delete(ctx, "hasty")))
	})
	for _, text := range [][]byte{nil, {0, 0, 0, 9, 0, 0}, bytes.Repeat([]byte{0xff}, 100), append([]byte{0, 0, 0, 40, 0, 0, 0, 1, 1, 0}, "half"...)} {
		conn, err := net.DialTimeout("unix", s.path("sock"), 20*time.Second)
		if s.did("odd connection", err) != nil {
			return
		}
		_, _ = conn.Write(text)
		s.pause()
		conn.Close()
	}
}

// follow reads events: all of them up to the context's end; or it subscribes,
// reads none for a while, then what there is, and leaves.
func (s *soak) follow(ctx context.Context, all bool) {
	c, err := s.dial()
	if err != nil {
		s.t.Errorf("follow: %v", err)
		return
	}
	defer c.Close()
	name := ""
	if !all {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rand.N(s.pace*10+200*time.Millisecond))
		defer cancel()
		name = []string{"", "web"}[rand.IntN(2)]
	}
	events, err := c.Events(ctx, name)
	if !all {
		time.Sleep(rand.N(s.pace*5 + 100*time.Millisecond))
	}
	for err == nil {
		var e *hostagentv1.Event
		if e, err = events.Next(); err == nil {
			for old := s.events.Load(); old < e.Sequence && !s.events.CompareAndSwap(old, e.Sequence); old = s.events.Load() {
			}
		}
	}
	if ctx.Err() == nil {
		s.t.Errorf("follow: %v", err)
	}
	_ = s.did("subscription", nil)
}

// scrape reads the metrics as Prometheus does.
func (s *soak) scrape() {
	_ = s.did("scrape", func() error {
		path := strings.TrimPrefix(s.args[1], "unix:")
		t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}
		defer t.CloseIdleConnections()
		answer, err := (&http.Client{Transport: t, Timeout: 30 * time.Second}).Get("http://localhost/metrics")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err == nil && !bytes.Contains(text, []byte("\ngo_goroutines ")) {
			err = fmt.Errorf("no metrics: %.100q", text)
		}
		s.series.Store(int64(bytes.Count(text, []byte("\n")) - 2*bytes.Count(text, []byte("# TYPE"))))
		return err
	}())
}
