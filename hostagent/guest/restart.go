package guest

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/store"
)

// Restart policies.
const (
	RestartNo        = "no"
	RestartOnFailure = "on-failure"
	RestartAlways    = "always"
)

// A restart policy's defaults and bounds.
const (
	defaultRestarts = 5
	maxRestarts     = 1000
	defaultWindow   = 10 * time.Minute
	maxWindow       = 7 * 24 * time.Hour

	firstDelay = time.Second // before the first restart; it doubles with each further one
	maxDelay   = time.Minute // and at most
)

// final are failures that another start would only repeat: image, disks and node
// are the same. All others may pass.
var final = map[fault.Code]bool{
	fault.Bundle: true, fault.NoSlot: true, fault.QEMU: true, fault.Node: true, fault.Refused: true, fault.BadRequest: true, fault.WrongState: true, fault.Path: true,
}

// retriable tells whether a failure may pass. What a guest says of its own
// (G1xx) is about its image and disks, but for a boot that took too long.
func retriable(code fault.Code) bool {
	if code[0] == 'G' {
		return code == "G113"
	}
	return !final[code]
}

// RestartPolicy makes a policy of a request's, nil for none.
func RestartPolicy(policy string, limit, windowS uint32) (*store.Restart, error) {
	switch policy {
	case "", RestartNo:
		if limit != 0 || windowS != 0 {
			return nil, fault.New(fault.BadRequest, "a limit of restarts is of use with policy %s or %s", RestartOnFailure, RestartAlways)
		}
		return nil, nil
	case RestartOnFailure, RestartAlways:
	default:
		return nil, fault.New(fault.BadRequest, "restart policy %.40q is none of %s, %s, %s", policy, RestartNo, RestartOnFailure, RestartAlways)
	}
	r := &store.Restart{Policy: policy, Limit: limit, WindowS: windowS}
	if r.Limit == 0 {
		r.Limit = defaultRestarts
	}
	if r.WindowS == 0 {
		r.WindowS = uint32(defaultWindow / time.Second)
	}
	if r.Limit > maxRestarts || r.WindowS > uint32(maxWindow/time.Second) {
		return nil, fault.New(fault.BadRequest, "restart policy allows %d restarts within %d seconds, at most %d within %d", r.Limit, r.WindowS, maxRestarts, maxWindow/time.Second)
	}
	return r, nil
}

// ended makes the record that of a guest whose run is over: stopped, failed, or
// waiting for its next start as its restart policy has it. f is why it failed,
// nil if it ended in order; told says that a caller ended it. spread, from 0 to
// 1, keeps guests that fail together from starting together.
func ended(rec *store.Guest, f *fault.Error, told bool, now time.Time, spread float64) {
	rec.State, rec.Process, rec.CID, rec.Failure, rec.RestartAt = string(Stopped), nil, 0, nil, time.Time{}
	if f != nil {
		rec.State = string(Failed)
		rec.Failure = &store.Failure{Code: string(f.Code), Message: f.Message, Remedy: f.Remedy}
	}
	p := rec.Restart
	if p == nil || told || f == nil && p.Policy != RestartAlways || f != nil && !retriable(f.Code) {
		return
	}
	window := time.Duration(p.WindowS) * time.Second
	var within []time.Time
	for _, at := range rec.Restarts {
		if at.After(now) { // the clock was set back
			at = now
		}
		if now.Sub(at) < window {
			within = append(within, at)
		}
	}
	rec.Restarts = within
	if len(within) >= int(p.Limit) {
		last := "it ended by itself"
		if f != nil {
			last = f.Error()
		}
		spent := fault.New(fault.RestartsSpent, "guest %s was restarted %d times within %s, as its policy %s allows: %s", rec.Name, len(within), window, p.Policy, last)
		rec.State, rec.Failure = string(Failed), &store.Failure{Code: string(spent.Code), Message: spent.Message, Remedy: spent.Remedy}
		return
	}
	rec.State = string(Waiting)
	rec.Restarts = append(rec.Restarts, now.UTC())
	rec.RestartAt = now.Add(delay(len(within), spread)).UTC()
}

// delay is how long a guest waits after so many restarts.
func delay(restarts int, spread float64) time.Duration {
	d := maxDelay
	if restarts < 6 {
		d = firstDelay << restarts
	}
	return d/2 + time.Duration(spread*float64(d/2))
}

// end records that a run is over, and sees to it that the guest starts again if
// it is to.
func (g *Guest) end(f *fault.Error, told bool) error {
	now := time.Now()
	err := g.note(func(rec *store.Guest) error {
		before := State(rec.State)
		if before == Stopping && f != nil && f.Code == fault.WrongState { // it was to reboot
			f = nil
		}
		ended(rec, f, told || before == Stopping, now, rand.Float64())
		return checkMove(rec.Name, before, State(rec.State))
	})
	if rec := g.record(); State(rec.State) == Waiting {
		g.await(rec.RestartAt)
	}
	return err
}

// errNotWaiting says that a restart was called off.
var errNotWaiting = errors.New("guest does not wait for this start")

// await starts a waiting guest when its time has come. Whoever moves the guest
// out of waiting calls it off.
func (g *Guest) await(at time.Time) {
	ctx, cancel := context.WithCancel(g.fleet.ctx)
	g.mu.Lock()
	if g.callOff != nil {
		g.callOff()
	}
	g.callOff = cancel
	g.mu.Unlock()
	g.fleet.lives.Go(func() {
		defer cancel()
		// A clock set back must not make it wait for years.
		for pause := max(0, min(time.Until(at), maxDelay)); ; pause = maxDelay {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			err := g.startWaiting(ctx)
			if err == nil || errors.Is(err, errNotWaiting) || ctx.Err() != nil {
				return
			}
			// The state folder is full, say.
			g.fleet.Log.Error("start waiting guest", "guest", g.record().Name, "error", err)
		}
	})
}

// startWaiting starts a guest that waits for it.
func (g *Guest) startWaiting(ctx context.Context) error {
	err := g.begin(ctx, func(rec *store.Guest) error {
		if State(rec.State) != Waiting {
			return errNotWaiting
		}
		return nil
	})
	if err == nil || errors.Is(err, errNotWaiting) || ctx.Err() != nil || fault.As(err).Code == fault.Storage {
		return err
	}
	// It may not start: it is on its way to another node, say.
	g.fleet.Log.Warn("restart is called off", "guest", g.record().Name, "error", err)
	return g.callOffRestart()
}
