package task

import (
	"context"
	"syscall"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/shim/ledger"
)

// rtmin is glibc's SIGRTMIN, from which systemd counts its own: RTMIN+3 halts a
// container, RTMIN+4 powers it off.
const rtmin = 34

// meaning is what a signal asks of a guest.
type meaning int

const (
	unknown  meaning = iota // nothing that a guest can be told
	nothing                 // nothing
	powerOff                // to end by itself
	force                   // to be ended
)

// meaningOf reads a signal. Those that tell a terminal's program something, or
// that ctr passes on because it got them itself, ask nothing of a guest.
func meaningOf(signal uint32) meaning {
	switch syscall.Signal(signal) {
	case syscall.SIGKILL:
		return force
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGPWR, rtmin + 3, rtmin + 4:
		return powerOff
	case 0, syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGWINCH:
		return nothing
	}
	return unknown
}

// kill does what a signal asks. It does not wait for a guest to power off.
func (t *task) kill(ctx context.Context, signal uint32) error {
	what := meaningOf(signal)
	if what == unknown {
		return notImplemented("signal %d can't be passed on: SIGTERM asks a sealed guest to power off, and SIGKILL ends it", signal)
	}
	if t.over() {
		return notFound("its process has ended already")
	}
	if what == nothing {
		return nil
	}
	if t.turn.TryLock() { // not in the middle of its start
		t.mu.Lock()
		waits := t.status == tasktypes.Status_CREATED
		t.mu.Unlock()
		if waits {
			t.end(ledger.Exit{Status: statusKilled, At: time.Now()}, nil)
		}
		t.turn.Unlock()
		if waits {
			return nil
		}
	}
	switch {
	case t.guest == "" && what == force:
		t.end(ledger.Exit{Status: statusKilled, At: time.Now()}, nil)
	case t.guest == "":
		t.end(ledger.Exit{Status: statusOff, At: time.Now()}, nil)
	case what == force:
		t.mu.Lock()
		t.killed = true
		t.mu.Unlock()
		return t.s.Host.kill(ctx, t.guest)
	default:
		t.askToStop()
	}
	return nil
}

// askToStop asks the guest to power off, once. Who asked decides when its time is
// up, by SIGKILL; hostagent does if the task says how long that may take.
func (t *task) askToStop() {
	timeout := t.want.Grace
	if timeout <= 0 {
		timeout = client.MaxStopTimeout
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopping {
		return
	}
	t.stopping, t.stopBy = true, time.Now().Add(timeout)
	t.killed = t.killed || !t.ready // hostagent ends a guest that is too early to hear
	t.follows.Go(func() {
		if _, err := t.s.Host.stop(t.ctx, t.guest, timeout); err != nil && !t.over() && t.ctx.Err() == nil {
			t.log.Error("stop guest", "guest", t.guest, "error", err)
			t.mu.Lock()
			t.stopping = false // for whoever asks again
			t.mu.Unlock()
		}
	})
}
