package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// soakEnv says for how long hostagent lives as a busy node's, such as 1h.
const soakEnv = "SECEXEC_SOAK"

// soak is a busy node.
type soak struct {
	*node
	long     bool
	pace     time.Duration // between what one worker does, on average
	events   atomic.Uint64 // sequence of the latest seen
	series   atomic.Int64  // of the latest scrape
	lives    atomic.Int64
	finished atomic.Bool // the round is over

	mu   sync.Mutex
	done map[string]int
}

// Guests that are there at each rest: started by policy, without one, never
// started and stopped.
var residents = map[string]string{"web": "ready", "db": "ready", "batch": "created", "old": "stopped"}

// hostagent lives as that of a busy node, in rounds. Guests come, are ready,
// reboot, panic, are restarted, misbehave, and go; clients call, make mistakes,
// follow events, stall and hang up; metrics are scraped. Between the rounds the
// node comes to rest, and then holds what it held at the first rest.
func TestSoak(t *testing.T) {
	t.Parallel()
	s, total := &soak{done: make(map[string]int)}, 3*time.Second
	if text := os.Getenv(soakEnv); text != "" {
		var err error
		if total, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s=%s: %v", soakEnv, text, err)
		}
		s.long, s.pace = true, 150*time.Millisecond // a fifth of a CPU, QEMUs and all
	}
	withProcesses(t)
	s.node = newNode(t, "--metrics", "unix:"+shortDir(t)+"/m")
	s.settleIn()
	round := min(max(total/40, 500*time.Millisecond), 30*time.Second)
	s.round(round) // the runtime, metrics and folders get what stays
	rests, begun := []rest{s.first()}, time.Now()
	if s.long {
		t.Logf("\n%s\n%s", restHeader, rests[0])
	}
	for (len(rests) < 3 || time.Since(begun) < total) && !t.Failed() {
		s.round(round)
		r := s.rest(rests[0].exact)
		r.at = time.Since(begun)
		rests = append(rests, r)
		if s.long {
			t.Log(r)
		}
		if r.exact != rests[0].exact {
			break
		}
	}
	for _, leak := range judge(rests) {
		t.Error(leak)
	}
	if peak := number(t, fmt.Sprintf("/proc/%d/status", s.agent.Process.Pid), "VmHWM:"); peak > 96<<10 {
		t.Errorf("hostagent took %d KiB of memory", peak)
	}
	var did []string
	for _, what := range slices.Sorted(maps.Keys(s.done)) {
		did = append(did, fmt.Sprintf("%d %s", s.done[what], what))
	}
	t.Logf("%s of %s's time for %d lives of guests: %s", s.cpu().Round(time.Millisecond), time.Since(begun).Round(time.Second), s.lives.Load(), strings.Join(did, ", "))
	t.Logf("%d rests, the first and the last:\n%s\n%s\n%s", len(rests), restHeader, rests[0], rests[len(rests)-1])
}

// first is what all later rests are compared with: what does not change any more.
func (s *soak) first() rest {
	s.t.Helper()
	for last, same := s.rest(exact{}), 0; ; {
		time.Sleep(400 * time.Millisecond)
		r := s.measured()
		if same++; r.exact != last.exact {
			same = 0
		}
		// What befell a resident at the round's very end may have been seen since.
		if last = r; !s.resident() {
			last, same = s.rest(exact{}), 0
		}
		if same == 3 {
			return last
		}
	}
}

// resident tells whether all residents are what they are at a rest.
func (s *soak) resident() bool {
	s.t.Helper()
	all := true
	s.must(func(ctx context.Context, c *client.Client) error {
		for name, state := range residents {
			g, err := c.Get(ctx, name)
			if err != nil {
				return err
			}
			all = all && g.State == state
		}
		return nil
	})
	return all
}

// rest waits until the node holds what it is to hold, none: anything, and else
// returns what it has in the end. What clients left may take a while to be seen,
// a log that was written to a second to be watched again.
func (s *soak) rest(want exact) rest {
	s.t.Helper()
	for name, state := range residents {
		s.must(func(ctx context.Context, c *client.Client) error {
			g, err := c.Get(ctx, name)
			for ; err == nil && g.State != state; g, err = s.becomes(ctx, c, name, "created", "ready", "failed", "stopped") {
				if g.State != "failed" && g.State != "stopped" {
					continue
				}
				if _, err := c.Start(ctx, name, ""); err != nil {
					return err
				}
			}
			return err
		})
	}
	if guests := s.check(); len(guests) != len(residents) {
		s.t.Errorf("guests left: %v", guests)
	}
	s.scrape()
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		r := s.measured()
		if want == (exact{}) || r.exact == want || time.Now().After(end) {
			return r
		}
	}
}

func (s *soak) measured() rest {
	s.t.Helper()
	r := s.measure()
	r.lives, r.events, r.series = int(s.lives.Load()), s.events.Load(), int(s.series.Load())
	return r
}

func (s *soak) settleIn() {
	s.t.Helper()
	s.must(func(ctx context.Context, c *client.Client) error {
		for name, state := range residents {
			r := &hostagentv1.CreateRequest{Name: name, Bundle: s.bundle}
			if name == "web" { // a short window: it is restarted after a second each time
				r.Restart = &hostagentv1.Restart{Policy: "always", Limit: 1000, WindowS: 1}
			}
			if _, err := c.Create(ctx, r); err != nil {
				return err
			}
			if state == "created" {
				continue
			}
			if _, err := c.Start(ctx, name, ""); err != nil {
				return err
			}
			if _, err := s.becomes(ctx, c, name, "ready"); err != nil {
				return err
			}
			if state == "stopped" {
				if _, err := c.Stop(ctx, name, 0); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
