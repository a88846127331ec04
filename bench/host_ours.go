package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/secexec/secexec/hostagent/client"
)

// ours is hostagent with guests of populate's.
type ours struct {
	*options
	dir, self string
	cmd       *exec.Cmd
}

func newOurs(dir string, o *options) (*ours, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &ours{o, filepath.Join(dir, "ours"), self, nil}
	if err := os.MkdirAll(filepath.Join(s.dir, "run"), 0o700); err != nil {
		return nil, err
	}
	return s, populate(s.dir, o.guests)
}

func (s *ours) label() string  { return "hostagent" }
func (s *ours) socket() string { return filepath.Join(s.dir, "sock") }
func (s *ours) pids() []int    { return []int{s.cmd.Process.Pid} }

func (s *ours) boot(ctx context.Context) error {
	s.cmd = exec.Command(s.self, "hostd", s.dir)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		return err
	}
	return eventually(ctx, func() error {
		c, err := client.Dial(ctx, s.socket(), nil)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

func (s *ours) murder() error {
	err := s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	return err
}

func (s *ours) start(ctx context.Context, i int) error {
	return run1(ctx, s.self, "start", s.socket(), guestName(i))
}

// startGuest is a client that starts a guest and waits until it runs, as virsh
// start does.
func startGuest(ctx context.Context, socket, name string) error {
	c, err := client.Dial(ctx, socket, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	events, err := c.Events(ctx, name)
	if err != nil {
		return err
	}
	if _, err := c.Start(ctx, name, ""); err != nil {
		return err
	}
	for {
		e, err := events.Next()
		switch {
		case err != nil:
			return err
		case e.Guest.State == "running":
			return nil
		case e.Guest.State == "failed":
			return errors.New(e.Guest.Failure.Message)
		}
	}
}

func (s *ours) kill(ctx context.Context, i int) error {
	return run1(ctx, s.secexec, "kill", "--socket", s.socket(), guestName(i))
}

func (s *ours) list(ctx context.Context) (int, error) {
	out, err := exec.CommandContext(ctx, s.secexec, "ps", "--socket", s.socket(), "--json").Output()
	if err != nil {
		return 0, fmt.Errorf("secexec ps: %w", err)
	}
	var guests []struct{ State string }
	if err := json.Unmarshal(out, &guests); err != nil {
		return 0, err
	}
	n := 0
	for _, g := range guests {
		if g.State == "running" {
			n++
		}
	}
	return n, nil
}

func (s *ours) statistics(ctx context.Context) error {
	return run1(ctx, s.secexec, "stats", "--socket", s.socket(), "--no-stream", "--format", "json")
}

func (s *ours) death(ctx context.Context, i int) (time.Duration, error) {
	c, err := client.Dial(ctx, s.socket(), nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	g, err := c.Get(ctx, guestName(i))
	if err != nil {
		return 0, err
	}
	events, err := c.Events(ctx, g.Name)
	if err != nil {
		return 0, err
	}
	p, err := os.FindProcess(int(g.Pid))
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := p.Kill(); err != nil {
		return 0, err
	}
	for {
		e, err := events.Next()
		if err != nil {
			return 0, err
		}
		if e.Guest.State == "failed" {
			return time.Since(start), nil
		}
	}
}

func (s *ours) close() error {
	if s.cmd == nil {
		return nil
	}
	err := s.murder()
	for _, pid := range named("qemu-system-s390x") {
		if p, e := os.FindProcess(pid); e == nil {
			_ = p.Kill()
		}
	}
	return err
}

func run1(ctx context.Context, argv ...string) error {
	if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv, err, out)
	}
	return nil
}

// eventually tries until it works, for 20 seconds.
func eventually(ctx context.Context, try func() error) error {
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		if err = try(); err == nil {
			return nil
		}
	}
	return errors.Join(err, ctx.Err())
}

// listMany is what a call of List takes with so many guests.
func listMany(ctx context.Context, dir string, n int, o *options) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	s := &ours{o, filepath.Join(dir, "many"), self, nil}
	if err := errors.Join(os.MkdirAll(filepath.Join(s.dir, "run"), 0o700), populate(s.dir, n)); err != nil {
		return 0, err
	}
	defer os.RemoveAll(s.dir)
	if err := s.boot(ctx); err != nil {
		return 0, err
	}
	defer s.murder()
	c, err := client.Dial(ctx, s.socket(), nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return timed(10*o.runs, func(int) error {
		guests, err := c.List(ctx)
		if err == nil && len(guests) != n {
			err = fmt.Errorf("%d guests of %d", len(guests), n)
		}
		return err
	})
}
