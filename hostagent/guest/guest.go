// Package guest supervises sealed guests: a state machine per guest, each
// transition stored before it acts, and one goroutine per running guest that
// owns its QEMU process from launch to end.
package guest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
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

	mu   sync.Mutex
	rec  store.Guest
	life *life // nil while no process belongs to the guest
}

func newGuest(f *Fleet, rec store.Guest) *Guest {
	return &Guest{fleet: f, turn: make(chan struct{}, 1), rec: rec}
}

// Snapshot is the guest as it is now.
func (g *Guest) Snapshot() store.Guest {
	g.mu.Lock()
	defer g.mu.Unlock()
	return snapshot(&g.rec)
}

// snapshot copies what a later change would reach into.
func snapshot(rec *store.Guest) store.Guest {
	c := *rec
	c.Stages = append([]store.Stage(nil), rec.Stages...)
	return c
}

// ConsolePath is the guest's console log.
func (g *Guest) ConsolePath() string { return filepath.Join(g.dir(), consoleFile) }

func (g *Guest) dir() string     { return g.fleet.Store.Dir(g.Snapshot().Name) }
func (g *Guest) current() *life  { g.mu.Lock(); defer g.mu.Unlock(); return g.life }
func (g *Guest) setLife(l *life) { g.mu.Lock(); defer g.mu.Unlock(); g.life = l }

// update changes the record: it is stored first, then in force, then told.
func (g *Guest) update(change func(rec *store.Guest) error) error {
	g.turn <- struct{}{} // the holder only writes a small file
	defer func() { <-g.turn }()
	rec := g.Snapshot()
	if err := change(&rec); err != nil {
		return err
	}
	if err := g.fleet.Store.Save(&rec); err != nil {
		return fault.New(fault.Storage, "%w", err)
	}
	g.mu.Lock()
	g.rec = rec
	g.mu.Unlock()
	g.fleet.Hub.publish(snapshot(&rec), false)
	return nil
}

// move is update with a transition.
func (g *Guest) move(to State, change func(rec *store.Guest)) error {
	return g.update(func(rec *store.Guest) error {
		if err := check(State(rec.State), to); err != nil {
			return fault.New(fault.WrongState, "guest %s is %s: %w", rec.Name, rec.State, err)
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
	})
}

// Start begins a launch. It returns once the state is stored; Snapshot and the
// hub tell how it goes on.
func (g *Guest) Start(ctx context.Context) error {
	if err := g.settled(ctx); err != nil {
		return err
	}
	l := newLife(g)
	if err := g.move(Starting, fresh); err != nil {
		return err
	}
	g.setLife(l)
	g.fleet.lives.Go(func() { l.launch(g.fleet.ctx) })
	return nil
}

// fresh makes the record one of a guest that was never started.
func fresh(rec *store.Guest) {
	rec.Started, rec.Stages, rec.Failure, rec.Process = time.Now().UTC(), nil, nil, nil
}

// settled waits until an ended run has cleared up behind itself, which it does
// right after its last state is told.
func (g *Guest) settled(ctx context.Context) error {
	if l := g.current(); l != nil && !State(g.Snapshot().State).Live() {
		return l.wait(ctx)
	}
	return nil
}

// Stop asks the guest to power off and ends it by force after the timeout. It
// returns when the guest has ended, or with the context.
func (g *Guest) Stop(ctx context.Context, timeout time.Duration) error {
	l := g.current()
	if l == nil {
		return g.notRunning("stopped")
	}
	if State(g.Snapshot().State) == Starting {
		l.order(order{kill: true}) // nothing in it to lose yet
	} else if err := g.move(Stopping, nil); err == nil || State(g.Snapshot().State) == Stopping {
		l.order(order{timeout: timeout})
	} else {
		return err
	}
	return l.wait(ctx)
}

// Kill ends the guest at once.
func (g *Guest) Kill(ctx context.Context) error {
	l := g.current()
	if l == nil {
		return g.notRunning("killed")
	}
	// Stored first, so that after a crash the guest is found ended by order. A
	// guest that is starting is found as such.
	if s := State(g.Snapshot().State); s == Running || s == Ready {
		_ = g.move(Stopping, nil) // it may just have ended by itself
	}
	l.order(order{kill: true})
	return l.wait(ctx)
}

func (g *Guest) notRunning(what string) error {
	rec := g.Snapshot()
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
		return nil, fault.New(fault.NoAnswer, "ask guest %s: %w", g.Snapshot().Name, err)
	}
	return report, nil
}

// pass records a stage, the first time that it is reached in this start, and who
// says so.
func (g *Guest) pass(stage, by string) error {
	return g.update(func(rec *store.Guest) error {
		for _, s := range rec.Stages {
			if s.Name == stage {
				return errAlready
			}
		}
		rec.Stages = append(rec.Stages, store.Stage{Name: stage, Millis: time.Since(rec.Started).Milliseconds(), By: by})
		return nil
	})
}

var errAlready = errors.New("stage was passed already")

// fail ends a start or a run as failed.
func (g *Guest) fail(f *fault.Error) error {
	return g.move(Failed, func(rec *store.Guest) {
		rec.Process = nil
		rec.Failure = &store.Failure{Code: string(f.Code), Message: f.Message, Remedy: f.Remedy}
	})
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
