package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// belief is what a guest may be by all that its operator was told.
type belief struct {
	t    *testing.T
	name string
	may  map[string]bool
}

func (b *belief) is(states ...string) {
	clear(b.may)
	b.orIs(states...)
}

func (b *belief) orIs(states ...string) {
	for _, s := range states {
		b.may[s] = true
	}
}

// surely tells whether the guest can be in no other state than these.
func (b *belief) surely(states ...string) bool {
	for s := range b.may {
		if !slices.Contains(states, s) {
			return false
		}
	}
	return true
}

var down = []string{"created", "stopped", "failed H213", "failed H218", "failed H212", "failed H211"}

// chaos is a node under load.
type chaos struct {
	*node
	busy  sync.RWMutex // held to read while an operation is under way
	ended bool
	ops   int
	mu    sync.Mutex // guards ops, and node's hostagent while it is replaced
}

// operate does one thing to a guest and takes down what it may be now.
func (c *chaos) operate(b *belief, dice int) {
	id := client.NewRequestID()
	c.mu.Lock()
	c.ops++
	agent := *c.node
	c.mu.Unlock()
	err := agent.do(func(ctx context.Context, api *client.Client) error {
		switch {
		case dice < 40: // start, as a script would: repeated until it is answered
			_, err := api.Start(ctx, b.name, id)
			b.outcome(err, "start", down, "ready", "failed H213")
			return err
		case dice < 55:
			_, err := api.Stop(ctx, b.name, time.Second)
			b.outcome(err, "stop", []string{"ready"}, "stopped")
			return err
		case dice < 70:
			_, err := api.Kill(ctx, b.name)
			b.outcome(err, "kill", []string{"ready"}, "stopped")
			return err
		case dice < 80:
			err := api.Delete(ctx, b.name)
			b.outcome(err, "delete", down, "")
			return err
		case dice < 90:
			_, err := api.Create(ctx, &hostagentv1.CreateRequest{Name: b.name, Bundle: c.bundle, RequestId: id})
			b.outcome(err, "create", []string{""}, "created")
			return err
		}
		g, err := api.Get(ctx, b.name)
		if err != nil || g.State != "ready" {
			return err
		}
		if dice < 95 {
			b.orIs("ready", "failed H218", "failed H213")
			return syscall.Kill(int(g.Pid), syscall.SIGUSR1)
		}
		b.orIs("failed H212", "failed H218")
		return syscall.Kill(int(g.Pid), syscall.SIGUSR2)
	})
	var f *fault.Error
	refused := errors.As(err, &f) && slices.Contains([]fault.Code{fault.WrongState, fault.NoGuest, fault.NameTaken, fault.NoAnswer}, f.Code)
	if err != nil && !refused && !errors.Is(err, errKilled) && !errors.Is(err, syscall.ESRCH) {
		c.t.Errorf("guest %s, dice %d: %v", b.name, dice, err)
	}
}

// outcome takes down what a call makes of a guest. It may not be refused if the
// guest can only be in a state that allows it.
func (b *belief) outcome(err error, call string, allowed []string, after ...string) {
	var f *fault.Error
	switch {
	case err == nil:
		b.is(after...)
	case !errors.As(err, &f):
		b.orIs(after...) // cut off: done or not
	case b.surely(allowed...):
		b.t.Errorf("%s of guest %s, which is one of %q, is refused: %v", call, b.name, slices.Sorted(maps.Keys(b.may)), err)
	}
}

// hostagent is killed at random under load: several guests are created, started,
// stopped, killed and removed at once, reboot and panic. No guest is lost, there
// twice, left alone, or reported as what it is not by what callers were told; a
// client that follows events through it all knows the state of all guests in the
// end.
func TestRandomKills(t *testing.T) {
	t.Parallel()
	kills, guests, each := 30, 4, 10
	if os.Getenv("SECEXEC_LONG") != "" {
		kills, guests, each = 1000, 8, 10
	}
	c := &chaos{node: newNode(t)}
	beliefs := make([]*belief, guests)
	var workers sync.WaitGroup
	for i := range beliefs {
		b := &belief{t, fmt.Sprintf("g%d", i), map[string]bool{"": true}}
		beliefs[i] = b
		workers.Go(func() {
			for {
				c.busy.RLock()
				if c.ended {
					c.busy.RUnlock()
					return
				}
				c.operate(b, rand.IntN(100))
				c.busy.RUnlock()
				time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
			}
		})
	}
	known, stopFollowing := follow(t, c.node)
	defer stopFollowing()
	begun, killed := time.Now(), 0
	for i := 1; i <= kills; i++ {
		time.Sleep(time.Duration(rand.IntN(250)) * time.Millisecond)
		c.mu.Lock()
		c.kill()
		c.boot()
		c.mu.Unlock()
		killed++
		if i%each != 0 && i != kills {
			continue
		}
		c.busy.Lock()
		found := c.check()
		for _, b := range beliefs {
			is := state(found[b.name])
			if !b.may[is] {
				t.Errorf("after %d kills guest %s is %q (%v), wants one of %q", i, b.name, is, found[b.name].GetFailure(), slices.Sorted(maps.Keys(b.may)))
			}
			b.is(is)
		}
		c.ended = i == kills || t.Failed()
		c.busy.Unlock()
		if t.Failed() {
			break
		}
	}
	workers.Wait()
	t.Logf("%d kills among %d operations in %s", killed, c.ops, time.Since(begun).Round(time.Second))
	final := c.check()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		seen := known()
		same := len(seen) == len(final)
		for name, g := range final {
			same = same && state(seen[name]) == state(g) && seen[name].GetUuid() == g.Uuid
		}
		if same {
			break
		}
		if time.Now().After(end) {
			t.Errorf("by its events a client knows %v, there is %v", seen, final)
			break
		}
	}
}

// follow keeps an image of all guests by their events alone.
func follow(t *testing.T, n *node) (known func() map[string]*hostagentv1.Guest, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c, err := n.dial()
	if err != nil {
		t.Fatal(err)
	}
	events, err := c.Events(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	guests, done := make(map[string]*hostagentv1.Guest), make(chan struct{})
	go func() {
		defer close(done)
		defer c.Close()
		var epoch string
		var last uint64
		for {
			e, err := events.Next()
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("follow events: %v", err)
				}
				return
			}
			if e.Sequence != 0 {
				if e.Epoch == epoch && e.Sequence != last+1 {
					t.Errorf("event %d of epoch %s follows %d", e.Sequence, epoch, last)
				}
				epoch, last = e.Epoch, e.Sequence
			}
			mu.Lock()
			if guests[e.Guest.Name] = e.Guest; e.Deleted {
				delete(guests, e.Guest.Name)
			}
			mu.Unlock()
		}
	}()
	known = func() map[string]*hostagentv1.Guest {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(guests)
	}
	return known, func() { cancel(); <-done }
}
