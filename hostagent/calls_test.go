package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// A client goes on with the next hostagent where that does no harm: it reads the
// console, and repeats calls that have an id; others it does not.
func TestClientGoesOn(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c, err := n.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	again := func() { n.kill(); n.boot() }
	request := &hostagentv1.CreateRequest{Bundle: n.bundle, RequestId: "create-1"}
	first, err := c.Create(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	again()
	if g, err := c.Create(ctx, request); err != nil || g.Uuid != first.Uuid {
		t.Errorf("create, repeated: %v %v", g, err)
	}
	if _, err := c.Start(ctx, "g", "start-1"); err != nil {
		t.Fatal(err)
	}
	ready, err := becomes(ctx, c, "g", "ready")
	if err != nil {
		t.Fatal(err)
	}
	again()
	if g, err := c.Start(ctx, "g", "start-1"); err != nil || g.Pid != ready.Pid {
		t.Errorf("start, repeated: %v %v", g, err)
	}
	again()
	if _, err := c.Console(ctx, "g", 0, 0); err != nil {
		t.Errorf("console: %v", err)
	}
	again()
	if _, err := c.Kill(ctx, "g"); !errors.Is(err, client.ErrClosed) {
		t.Errorf("kill: %v", err)
	}
	if g := n.check()["g"]; g.GetState() != "ready" || g.Pid != ready.Pid {
		t.Errorf("in the end: %v", g)
	}
	if text, err := os.ReadFile(n.log.Name()); err != nil || strings.Contains(string(text), "without QMP") {
		t.Errorf("a guest that was taken over lost its QMP: %v", err)
	}
}

// Creates with one id at the same time make one guest and get one answer; with
// another id they are refused; a failed one leaves nothing and may be repeated.
func TestCreateIsIdempotent(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	type answer struct {
		uuid string
		err  error
	}
	create := func(bundle, id string) (a answer) {
		a.err = n.do(func(ctx context.Context, c *client.Client) error {
			g, err := c.Create(ctx, &hostagentv1.CreateRequest{Name: "g", Bundle: bundle, RequestId: id})
			a.uuid = g.GetUuid()
			return err
		})
		return a
	}
	if a := create(n.path("none"), "one"); a.err == nil {
		t.Error("a guest without a bundle")
	}
	answers := make(chan answer)
	for range 8 {
		go func() { answers <- create(n.bundle, "one") }()
	}
	var first answer
	for range 8 {
		a := <-answers
		if a.err != nil || first.uuid != "" && a.uuid != first.uuid {
			t.Errorf("create: %q %v, another got %q", a.uuid, a.err, first.uuid)
		}
		first = a
	}
	var f *fault.Error
	if a := create(n.bundle, "two"); !errors.As(a.err, &f) || f.Code != fault.NameTaken {
		t.Errorf("another id: %v", a.err)
	}
	n.kill()
	n.boot()
	if a := create(n.path("none"), "one"); a.err != nil || a.uuid != first.uuid { // the bundle may be gone
		t.Errorf("repeated: %q %v, the first got %q", a.uuid, a.err, first.uuid)
	}
	for i := range 20 { // whoever gave up a Create may repeat it at once
		r := &hostagentv1.CreateRequest{Name: fmt.Sprintf("hasty-%d", i), Bundle: n.bundle, RequestId: client.NewRequestID()}
		n.must(func(ctx context.Context, c *client.Client) error {
			short, cancel := context.WithTimeout(ctx, time.Duration(i)*200*time.Microsecond)
			_, _ = c.Create(short, r)
			cancel()
			_, err := c.Create(ctx, r)
			return err
		})
	}
	n.check()
}

// A second hostagent with the same state folder, or on the same socket, says what
// is wrong, and the first one goes on.
func TestTwoHostagents(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.launch("g")
	for _, c := range []struct{ flag, path, words string }{
		{"--socket", "sock2", "state folder is in use by another hostagent"},
		{"--state", "state2", "another hostagent serves it"},
	} {
		second := exec.Command(n.agent.Path, append(slices.Clone(n.agent.Args[1:]), c.flag, n.path(c.path))...)
		second.Env = n.agent.Env
		out, err := second.CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.words) {
			t.Errorf("%s %s: %v: %s", c.flag, c.path, err, out)
		}
	}
	n.check()
}

// How soon the operator hears: of a start, of a kill, of QEMU's death.
func TestTimes(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	var starts, kills, deaths []time.Duration
	n.launch("g")
	n.must(func(ctx context.Context, c *client.Client) error {
		for range 10 {
			g, err := becomes(ctx, c, "g", "ready")
			if err != nil {
				return err
			}
			begun := time.Now()
			if err := syscall.Kill(int(g.Pid), syscall.SIGKILL); err != nil {
				return err
			}
			if _, err := becomes(ctx, c, "g", "failed"); err != nil {
				return err
			}
			deaths = append(deaths, time.Since(begun))
			for range 2 {
				begun = time.Now()
				if _, err := c.Start(ctx, "g", ""); err != nil {
					return err
				}
				if _, err := becomes(ctx, c, "g", "ready"); err != nil {
					return err
				}
				starts = append(starts, time.Since(begun))
				begun = time.Now()
				if _, err := c.Kill(ctx, "g"); err != nil {
					return err
				}
				kills = append(kills, time.Since(begun))
			}
			if _, err := c.Start(ctx, "g", ""); err != nil {
				return err
			}
		}
		return nil
	})
	for _, of := range []struct {
		what  string
		times []time.Duration
	}{{"start to ready", starts}, {"kill", kills}, {"death of QEMU to failed", deaths}} {
		slices.Sort(of.times)
		median := of.times[len(of.times)/2]
		t.Logf("%s: median %s, at most %s", of.what, median.Round(100*time.Microsecond), of.times[len(of.times)-1].Round(100*time.Microsecond))
		if median > 5*time.Second {
			t.Errorf("%s takes %s", of.what, median)
		}
	}
}
