package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/readiness"
)

// Bounds of waiting.
const (
	launchTimeout    = 5 * time.Minute // from QEMU's start to the ultravisor's decision
	adoptTimeout     = 5 * time.Second // for QMP of a QEMU that runs already
	adoptTries       = 5               // while it is not known whether a process runs
	adoptPause       = 200 * time.Millisecond
	adoptPatience    = 15 * time.Second // for such a guest to say that it is ready
	quitTimeout      = 2 * time.Second  // for QEMU to end by itself, before it is killed
	killTimeout      = 10 * time.Second
	refusalPatience  = 1500 * time.Millisecond // for the boot loader to print why
	failPatience     = 3 * time.Second         // for a guest that gave up to power off
	drainPatience    = 5 * time.Second         // for the last words of one that ended: both connections end with it
	challengeTimeout = 5 * time.Second
)

// order is what a caller wants of a running guest.
type order struct {
	kill    bool
	timeout time.Duration // of a stop
}

// life is one run of a guest, from launch or adoption to its end. Its goroutine
// owns process, monitor and port.
type life struct {
	g       *Guest
	orders  chan order
	aborted atomic.Bool   // ended by order: stopped, not failed
	done    chan struct{} // closed at the end

	proc    launch.Process
	monitor *qemu.Monitor
	// published is the monitor once the guest runs, for callers beside the life's
	// goroutine.
	published atomic.Pointer[qemu.Monitor]
	port      *port
	asking    chan struct{} // held (sent) by the one challenge under way
	reports   chan []byte

	reason string // why QEMU ends, from its SHUTDOWN event
	panics string // words of its GUEST_PANICKED event
	failed string // code of the guest's FAIL line
	exit   *uint8 // of its EXIT line
	ready  bool

	deadline *time.Timer   // for becoming ready
	held     bool          // it waits for its owner's secrets, which counts for nothing
	patience time.Duration // at least, before the guest counts as not ready in time
	next     *life         // what follows: the guest rebooted
}

var (
	errAborted = errors.New("stopped while starting")
	errEnded   = errors.New("QEMU ended")
)

func newLife(g *Guest) *life {
	return &life{
		g: g, orders: make(chan order, 8), done: make(chan struct{}),
		port: newPort(g.fleet.Log.With("guest", g.record().Name)), asking: make(chan struct{}, 1), reports: make(chan []byte, 1),
	}
}

// order hands over an order; a guest with many orders pending is ending anyway.
// However it ends from now on, somebody wanted it to.
func (l *life) order(o order) {
	l.aborted.Store(true)
	select {
	case l.orders <- o:
	default:
	}
}

func (l *life) wait(ctx context.Context) error {
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the guest's end: %w", context.Cause(ctx))
	}
}

// supervise follows the guest until its process ends, or hostagent does.
func (l *life) supervise(ctx context.Context) {
	rec := l.g.record()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.g.fleet.lives.Go(func() { l.port.run(ctx, filepath.Join(l.g.fleet.runDir(rec.Name), readinessSocket)) })
	// A clock set back since the start must not make it wait for years.
	left := min(time.Until(rec.Started.Add(l.g.fleet.ReadyTimeout)), l.g.fleet.ReadyTimeout)
	l.deadline = time.NewTimer(max(l.patience, left))
	defer l.deadline.Stop()
	for _, s := range rec.Stages { // of a guest that was taken over
		l.hold(s.Name)
	}
	for _, log := range []string{consoleFile, qemuLog} {
		defer l.g.fleet.logs.watch(filepath.Join(l.g.dir(), log)).end()
	}
	force := make(<-chan time.Time) // never, until a stop or a failure sets it
	var by time.Time                // when force is due, for an order
	quitting := false
	var events <-chan qemu.Event
	if l.monitor != nil {
		events = l.monitor.Events()
		l.published.Store(l.monitor)
	}
	for {
		select {
		case <-l.proc.Exited():
			l.drain(events)
			l.finish()
			return
		case e, open := <-events:
			if !open {
				events = nil // the process tells its end
				continue
			}
			l.event(e)
		case m := <-l.port.messages:
			if l.message(m) {
				force = time.After(failPatience)
			}
		case o := <-l.orders:
			l.g.stopping()          // unless whoever ordered did: it was still starting then
			if o.kill || !l.ready { // a guest that is not ready can't hear
				l.killProcess()
				continue
			}
			l.port.powerOff()
			if end := time.Now().Add(o.timeout); by.IsZero() || end.Before(by) { // a later order may hurry, not slow down
				by, force = end, time.After(o.timeout)
			}
		case <-force:
			if l.monitor == nil || quitting {
				l.killProcess()
				continue
			}
			quitting = true
			force = time.After(quitTimeout)
			l.g.fleet.lives.Go(func() { l.quit(ctx) })
		case <-l.deadline.C:
			if !l.ready && l.failed == "" && !l.aborted.Load() {
				l.failed = string(fault.NotReady)
				l.killProcess()
			}
		case <-ctx.Done():
			return // the guest goes on without us
		}
	}
}

// hold stops the clock while a guest waits for its owner to deliver secrets: that
// may take as long as it takes. When they are there it has all of its time to
// become ready, once.
func (l *life) hold(stage string) {
	runs := slices.ContainsFunc(l.g.record().Stages, func(s store.Stage) bool { return s.Name == readiness.StageRunning })
	switch {
	case stage == readiness.StageSecrets && !runs:
		l.held = true
		l.deadline.Stop()
	case stage == readiness.StageRunning && l.held:
		l.held = false
		l.deadline.Reset(l.g.fleet.ReadyTimeout)
	}
}

// message handles a line from the guest. It tells whether the guest gave up.
func (l *life) message(m readiness.Message) (gaveUp bool) {
	switch m := m.(type) {
	case readiness.Stage:
		l.hold(m.Name)
		if m.Name != readiness.StageReady || l.ready || l.aborted.Load() {
			l.report(l.g.hear(m.Name))
		} else {
			l.report(l.g.note(moving(Ready, func(rec *store.Guest) { pass(rec, m.Name, store.ByGuest) })))
		}
		l.ready = l.ready || m.Name == readiness.StageReady
	case readiness.Fail:
		if l.failed == "" && !l.ready {
			l.failed = m.Code
			return true
		}
	case readiness.Exit:
		if l.exit == nil {
			l.exit = &m.Status
			l.report(l.g.exited(m.Status))
		}
	case readiness.Unhealthy:
		l.report(l.g.healthy(false))
	case readiness.Healthy:
		l.report(l.g.healthy(true))
	case readiness.Report:
		select {
		case l.reports <- m.COSE:
		default:
		}
	}
	return false
}

// challenge asks the guest for a report. One is under way at a time.
func (l *life) challenge(ctx context.Context, nonce [readiness.NonceSize]byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, challengeTimeout)
	defer cancel()
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case <-l.reports: // an answer that came too late for its asker
	default:
	}
	l.port.ask(nonce) // the guest was taken over just now, say: it hears it when it is connected
	defer l.port.forget()
	select {
	case report := <-l.reports:
		return report, nil
	case <-l.done:
		return nil, errors.New("the guest ended")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// quit asks QEMU to end; if it does not, it is killed.
func (l *life) quit(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, quitTimeout)
	defer cancel()
	if err := l.monitor.Quit(ctx); err != nil {
		l.g.fleet.Log.Warn("end QEMU", "guest", l.name(), "error", err)
	}
}

// end lets go of all that the life owns, and lets what follows begin.
func (l *life) end() {
	if l.monitor != nil {
		l.monitor.Close()
	}
	if l.proc != nil {
		select {
		case <-l.proc.Exited():
			os.RemoveAll(l.g.fleet.runDir(l.name()))
		default:
		}
	}
	l.g.mu.Lock()
	if l.g.life == l {
		l.g.life = nil
	}
	l.g.mu.Unlock()
	close(l.done)
	if next := l.next; next != nil {
		l.g.fleet.lives.Go(func() { next.launch(l.g.fleet.ctx) })
	}
}

func (l *life) killProcess() {
	if l.proc == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if err := l.proc.Kill(ctx); err != nil {
		l.g.fleet.Log.Error("kill QEMU", "guest", l.name(), "error", err)
	}
}

// waitExit waits for the process's end, for a while, and tells whether it came.
func (l *life) waitExit(patience time.Duration) bool {
	if l.proc == nil {
		return false
	}
	select {
	case <-l.proc.Exited():
		return true
	case <-time.After(patience):
		return false
	}
}

func (l *life) name() string { return l.g.record().Name }

// report logs what can't be told to any caller.
func (l *life) report(err error) {
	if err != nil {
		l.g.fleet.Log.Error("supervise guest", "guest", l.name(), "error", err)
	}
}
