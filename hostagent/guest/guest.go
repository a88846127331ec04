// Package guest supervises sealed guests: a state machine per guest, each
// transition stored before it acts, and one goroutine per running guest that
// owns its QEMU process from launch to end.
package guest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/readiness"
)

// Guest is one guest.
type Guest struct {
	fleet *Fleet
	turn  chan struct{} // held (sent) while a change is decided and stored

	dumping atomic.Bool // one dump is under way at a time
	channel atomic.Bool // a client is connected to the owner's channel

	mu      sync.Mutex
	rec     *store.Guest // never changed, only replaced
	life    *life        // nil while no process belongs to the guest
	callOff func()       // ends the wait for a restart, nil: none
}

func newGuest(f *Fleet, rec store.Guest) *Guest {
	return &Guest{fleet: f, turn: make(chan struct{}, 1), rec: &rec}
}

// Snapshot is the guest as it is now.
func (g *Guest) Snapshot() store.Guest { return *g.record().Clone() }

// record is the guest as it is now, for readers.
func (g *Guest) record() *store.Guest { g.mu.Lock(); defer g.mu.Unlock(); return g.rec }

// ConsolePath is the guest's console log.
func (g *Guest) ConsolePath() string { return filepath.Join(g.dir(), consoleFile) }

func (g *Guest) dir() string     { return g.fleet.Store.Dir(g.record().Name) }
func (g *Guest) current() *life  { g.mu.Lock(); defer g.mu.Unlock(); return g.life }
func (g *Guest) setLife(l *life) { g.mu.Lock(); defer g.mu.Unlock(); g.life = l }

// weight is how much a change of the record matters.
type weight int

const (
	decision weight = iota // what can't be stored is not done
	fact                   // what happened: in force nevertheless, and stored with the next change
	hint                   // of the guest, who says it again when asked: stored with the next change
)

// apply changes the record: it is stored first, then in force, then told. next is
// the life that begins with the change.
func (g *Guest) apply(w weight, next *life, change func(rec *store.Guest) error) error {
	g.turn <- struct{}{} // the holder only writes a small file
	defer func() { <-g.turn }()
	rec := g.record().Clone()
	if err := change(rec); err != nil {
		return err
	}
	rec.BootID = g.fleet.Boot
	var err error
	if w != hint {
		err = g.fleet.Store.Save(rec)
	}
	if err != nil {
		err = fault.New(fault.Storage, "%w", err)
		if w == decision {
			return err
		}
	}
	g.mu.Lock()
	g.rec = rec
	if next != nil {
		g.life = next
	}
	if g.callOff != nil && State(rec.State) != Waiting {
		g.callOff()
		g.callOff = nil
	}
	g.mu.Unlock()
	g.fleet.Hub.publish(rec, false)
	return err
}

// update takes a decision.
func (g *Guest) update(change func(rec *store.Guest) error) error {
	return g.apply(decision, nil, change)
}

// note takes down a fact. It is in force even if an error says that it could not
// be stored.
func (g *Guest) note(change func(rec *store.Guest) error) error { return g.apply(fact, nil, change) }

// move is a decision with a transition.
func (g *Guest) move(to State, change func(rec *store.Guest)) error {
	return g.update(moving(to, change))
}

// moving is a change with a transition.
func moving(to State, change func(rec *store.Guest)) func(rec *store.Guest) error {
	return func(rec *store.Guest) error {
		if err := checkMove(rec.Name, State(rec.State), to); err != nil {
			return err
		}
		if to == Starting {
			if err := move.Start(rec); err != nil {
				return err
			}
		}
		rec.State = string(to)
		if change != nil {
			change(rec)
		}
		return nil
	}
}

// Start begins a launch. It returns once the state is stored; Snapshot and the
// hub tell how it goes on. A call that repeats the id of the last start does
// nothing; "" is never repeated.
func (g *Guest) Start(ctx context.Context, id string) error {
	if err := checkRequest(id); err != nil {
		return err
	}
	err := g.begin(ctx, func(rec *store.Guest) error {
		if id != "" && rec.StartedBy == id {
			return errRepeated
		}
		rec.StartedBy, rec.Restarts = id, nil
		return nil
	})
	if errors.Is(err, errRepeated) {
		return nil
	}
	return err
}

var errRepeated = errors.New("guest was started by this call")

// begin is the way to each launch: by a call, by the restart policy, at boot.
func (g *Guest) begin(ctx context.Context, change func(rec *store.Guest) error) error {
	if err := g.settled(ctx); err != nil {
		return err
	}
	l := newLife(g)
	err := g.apply(decision, l, func(rec *store.Guest) error {
		if err := change(rec); err != nil {
			return err
		}
		if s := State(rec.State); s.Live() { // of those ready leads to starting, by the guest's own reboot
			return fault.New(fault.WrongState, "guest %s is %s: it can't be started", rec.Name, s)
		}
		return moving(Starting, fresh)(rec)
	})
	if err != nil {
		return err
	}
	g.fleet.lives.Go(func() { l.launch(g.fleet.ctx) })
	return nil
}

// fresh makes the record one of a guest that was never started.
func fresh(rec *store.Guest) {
	rec.Started, rec.Stages, rec.Failure, rec.Process, rec.RestartAt = time.Now().UTC(), nil, nil, nil, time.Time{}
	rec.Exit, rec.Unhealthy, rec.CID = nil, false, 0
}

// settled waits until an ended run has cleared up behind itself, which it does
// right after its last state is told.
func (g *Guest) settled(ctx context.Context) error {
	if l := g.current(); l != nil && !State(g.record().State).Live() {
		return l.wait(ctx)
	}
	return nil
}

// Stop asks the guest to power off and ends it by force after the timeout, or
// calls off its restart. It returns when the guest has ended, or with the context.
func (g *Guest) Stop(ctx context.Context, timeout time.Duration) error {
	return g.halt(ctx, order{timeout: timeout}, "stopped")
}

// Kill ends the guest at once, or calls off its restart.
func (g *Guest) Kill(ctx context.Context) error {
	return g.halt(ctx, order{kill: true}, "killed")
}

func (g *Guest) halt(ctx context.Context, o order, what string) error {
	if State(g.record().State) == Waiting {
		if err := g.callOffRestart(); err == nil || fault.As(err).Code == fault.Storage {
			return err
		} // its time came just now
	}
	l := g.current()
	if l == nil {
		return g.notRunning(what)
	}
	for ; l != nil; l = l.next { // a guest that just reboots has a next life
		switch State(g.record().State) {
		case Starting:
			o = order{kill: true} // nothing in it to lose yet; after a crash it is found as starting
		case Running, Ready:
			g.stopping()
		}
		l.order(o)
		if err := l.wait(ctx); err != nil {
			return err
		}
	}
	if State(g.record().State) == Waiting { // it ended just before the order came
		return g.callOffRestart()
	}
	return nil
}

// stopping is stored before an order acts, so that after a crash the guest is
// found ended by order. A state folder that is full keeps nobody from stopping
// guests.
func (g *Guest) stopping() {
	err := g.note(moving(Stopping, nil))
	if err != nil && fault.As(err).Code == fault.Storage {
		g.fleet.Log.Error("guest is stopped, but the order can't be stored", "guest", g.record().Name, "error", err)
	} // else it is stopping already, or has just ended by itself
}

func (g *Guest) callOffRestart() error {
	return g.move(Stopped, func(rec *store.Guest) { rec.RestartAt = time.Time{} })
}

func (g *Guest) notRunning(what string) error {
	rec := g.record()
	return fault.New(fault.WrongState, "guest %s is %s: it can't be %s", rec.Name, rec.State, what)
}

// Challenge relays a nonce and returns the guest's report.
func (g *Guest) Challenge(ctx context.Context, nonce [readiness.NonceSize]byte) ([]byte, error) {
	l := g.current()
	if l == nil {
		return nil, g.notRunning("asked")
	}
	report, err := l.challenge(ctx, nonce)
	if err != nil {
		return nil, fault.New(fault.NoAnswer, "ask guest %s: %w", g.record().Name, err)
	}
	return report, nil
}

// pass is a change by a stage of this start, that passed now, and who says so.
func pass(rec *store.Guest, stage, by string) {
	// Of a start before this hostagent's own the wall clock tells, which may have
	// been set since.
	millis := max(0, time.Since(rec.Started).Milliseconds())
	for _, s := range rec.Stages {
		if s.Name == stage {
			return
		}
		millis = max(millis, s.Millis)
	}
	rec.Stages = append(rec.Stages, store.Stage{Name: stage, Millis: millis, By: by})
}

// hear takes down a stage that the guest says it has passed, the first time.
func (g *Guest) hear(stage string) error {
	if slices.ContainsFunc(g.record().Stages, func(s store.Stage) bool { return s.Name == stage }) {
		return nil // it may say so as often as it likes
	}
	return g.apply(hint, nil, func(rec *store.Guest) error { pass(rec, stage, store.ByGuest); return nil })
}

// exited takes down how the guest's one program ended.
func (g *Guest) exited(status uint8) error {
	return g.apply(hint, nil, func(rec *store.Guest) error { rec.Exit = &status; return nil })
}

// healthy takes down whether the workload keeps its watchdog's time.
func (g *Guest) healthy(is bool) error {
	if g.record().Unhealthy == !is {
		return nil
	}
	return g.apply(hint, nil, func(rec *store.Guest) error { rec.Unhealthy = !is; return nil })
}

// guestFault is the failure that the guest itself reported.
func guestFault(name, code string) *fault.Error {
	sentence := readiness.Failures[code]
	if sentence == "" {
		sentence = "it gives a reason that this hostagent does not know"
	}
	return &fault.Error{
		Code: fault.Code(code), Message: fmt.Sprintf("guest %s stopped: %s", name, sentence),
		Remedy: "see " + code + " in the list of error codes",
	}
}
