// Package health tells systemd how hostagent is: the line that systemctl status
// shows, and the watchdog, which is fed only while hostagent answers itself.
package health

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/secexec/secexec/hostagent/journal"
)

// Bounds.
const (
	pause      = 200 * time.Millisecond // between two STATUS lines
	checkEvery = 30 * time.Second       // without a watchdog that asks more often
	maxStatus  = 1000                   // bytes of the STATUS line
)

// Names of checks, by which metrics and log tell them apart.
const (
	Node    = "node"    // can guests run here?
	State   = "state"   // can the state folder be written?
	Records = "records" // are all guests' records whole?
	Alive   = "alive"   // does hostagent answer itself?
)

// Health is how hostagent is.
type Health struct {
	Log    *slog.Logger
	Notify func(state string)            // sd_notify
	States func() map[string]int         // guests by state
	Suffix string                        // of the STATUS line, such as the platform
	Every  time.Duration                 // watchdog's period, 0: none
	Pings  []func(context.Context) error // what must answer for hostagent to be alive
	Checks map[string]func(context.Context) error

	changed chan struct{}
	running chan struct{} // holds (sent) the one round of pings, and of checks, under way

	mu       sync.Mutex
	problems map[string]error // by check; nil: well
	told     string           // last STATUS line
}

// New makes a Health that is well.
func New(log *slog.Logger, notify func(string)) *Health {
	return &Health{
		Log: log, Notify: notify, States: func() map[string]int { return nil }, Checks: make(map[string]func(context.Context) error),
		changed: make(chan struct{}, 1), running: make(chan struct{}, 1), problems: map[string]error{Alive: nil},
	}
}

// Changed says that the STATUS line may have to change. It never waits.
func (h *Health) Changed() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// Set says how a check ended: nil is well. What changes is logged.
func (h *Health) Set(check string, err error) {
	h.mu.Lock()
	before := h.problems[check]
	h.problems[check] = err
	h.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		h.Log.Error(words[check].bad, words[check].event, "check", check, "error", err)
	case err == nil && before != nil:
		h.Log.Info(words[check].good, words[check].back, "check", check, "error", before)
	default:
		return
	}
	h.Changed()
}

// words are what the log says of a check.
var words = map[string]struct {
	bad, good   string
	event, back slog.Attr
}{
	Node:    {"node can't run guests", "node can run guests again", journal.NodeUnfit, journal.NodeFit},
	State:   {"state folder can't be written", "state folder can be written again", journal.Problem, journal.Recovered},
	Records: {"records of guests are damaged", "records of guests are whole again", journal.Problem, journal.Recovered},
	Alive:   {"hostagent does not answer itself", "hostagent answers itself again", journal.Stuck, journal.Recovered},
}

// Well tells of each check whether it is well.
func (h *Health) Well() map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string]bool, len(h.problems))
	for check, err := range h.problems {
		out[check] = err == nil
	}
	return out
}

// Status is the line that systemctl status shows.
func (h *Health) Status() string {
	states := h.States()
	total := 0
	var parts []string
	for _, state := range []string{"ready", "running", "starting", "stopping", "waiting", "failed", "stopped", "created"} {
		if n := states[state]; n > 0 {
			total += n
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	line := fmt.Sprintf("%d guests", total)
	if total == 1 {
		line = "1 guest"
	}
	if len(parts) > 0 {
		line += ": " + strings.Join(parts, ", ")
	}
	line += h.Suffix
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, check := range slices.Sorted(maps.Keys(h.problems)) {
		if err := h.problems[check]; err != nil {
			line += "; " + words[check].bad + ": " + err.Error()
		}
	}
	line = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, line)
	return strings.ToValidUTF8(line[:min(len(line), maxStatus)], "")
}

// Run tells systemd that hostagent is up, then keeps the STATUS line true and
// feeds the watchdog until the context is done, and says that hostagent stops.
func (h *Health) Run(ctx context.Context) {
	h.tell("READY=1\n")
	every := h.Every / 2
	if every <= 0 {
		every = checkEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var quiet <-chan time.Time // runs while no further line may be told
	pending := false
	for {
		select {
		case <-h.changed:
			if quiet != nil {
				pending = true
				continue
			}
			h.tell("")
			quiet = time.After(pause)
		case <-quiet:
			quiet = nil
			if pending {
				pending = false
				h.Changed()
			}
		case <-tick.C:
			h.round(ctx, every/2)
		case <-ctx.Done():
			h.Notify("STOPPING=1")
			return
		}
	}
}

// tell sends the STATUS line if it is another one, or something goes with it.
func (h *Health) tell(with string) {
	line := h.Status()
	h.mu.Lock()
	same := line == h.told
	h.told = line
	h.mu.Unlock()
	if !same || with != "" {
		h.Notify(with + "STATUS=" + line)
	}
}

// round asks all pings and feeds the watchdog if they answered in time; the
// checks follow. A state folder that is full is a problem, but none that a
// restart of hostagent mends, so the watchdog does not depend on it. A round
// that hangs is left behind: no second one begins beside it.
func (h *Health) round(ctx context.Context, patience time.Duration) {
	select {
	case h.running <- struct{}{}:
	default:
		h.Set(Alive, fmt.Errorf("the last round of checks has not ended within %s", 4*patience))
		return
	}
	answered := make(chan error, 1)
	go func() { // ends when what it asks does; running holds back the next one
		defer func() { <-h.running }()
		asking, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		var err error
		for _, ping := range h.Pings {
			if err = ping(asking); err != nil {
				break
			}
		}
		answered <- err
		for name, check := range h.Checks {
			h.Set(name, check(asking))
		}
	}()
	var err error
	select {
	case err = <-answered:
	case <-time.After(patience):
		err = fmt.Errorf("no answer within %s", patience)
	case <-ctx.Done():
		return
	}
	h.Set(Alive, err)
	if err == nil && h.Every > 0 {
		h.Notify("WATCHDOG=1")
	}
}
