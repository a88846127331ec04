package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/readiness"
)

// Bounds of waiting.
const (
	launchTimeout    = 5 * time.Minute // from QEMU's start to the ultravisor's decision
	adoptTimeout     = 5 * time.Second // for QMP of a QEMU that runs already
	killTimeout      = 10 * time.Second
	refusalPatience  = 1500 * time.Millisecond // for the boot loader to print why
	failPatience     = 3 * time.Second         // for a guest that gave up to power off
	challengeTimeout = 5 * time.Second
	consoleCheck     = 10 * time.Second
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
	aborted atomic.Bool // ended by order: stopped, not failed
	abort   context.CancelCauseFunc
	done    chan struct{} // closed at the end

	proc    launch.Process
	monitor *qemu.Monitor
	port    *port
	asking  chan struct{} // held (sent) by the one challenge under way
	reports chan []byte

	reason string // why QEMU ends, from its SHUTDOWN event
	panics string // words of its GUEST_PANICKED event
	failed string // code of the guest's FAIL line
	ready  bool
}

var (
	errAborted = errors.New("stopped while starting")
	errEnded   = errors.New("QEMU ended")
)

func newLife(g *Guest) *life {
	return &life{
		g: g, orders: make(chan order, 8), abort: func(error) {}, done: make(chan struct{}),
		port: newPort(), asking: make(chan struct{}, 1), reports: make(chan []byte, 1),
	}
}

// order hands over an order; a guest with many orders pending is ending anyway.
func (l *life) order(o order) {
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

// launch takes the guest from state starting to its end.
func (l *life) launch(ctx context.Context) {
	defer l.end()
	starting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bounded, stop := context.WithTimeout(starting, launchTimeout)
	defer stop()
	launched, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		l.watchOrders(cancel, launched)
	}()
	err := l.start(bounded)
	close(launched)
	<-watched // it may just be taking an order
	switch {
	case err == nil && !l.aborted.Load():
	case l.aborted.Load():
		l.killProcess()
		l.report(l.g.move(Stopped, func(rec *store.Guest) { rec.Process = nil }))
		return
	case ctx.Err() != nil:
		l.killProcess()
		l.report(l.g.fail(fault.New(fault.Interrupted, "hostagent ended while guest %s started", l.name())))
		return
	default:
		f := fault.As(err)
		if f.Code == fault.Refused { // its boot loader says why, and stops
			l.waitExit(refusalPatience)
		}
		l.killProcess()
		l.report(l.g.fail(f))
		return
	}
	if err := l.g.move(Running, nil); err != nil {
		l.killProcess()
		l.report(l.g.fail(fault.As(err)))
		return
	}
	l.supervise(ctx)
}

// watchOrders cancels the launch at the first order.
func (l *life) watchOrders(cancel context.CancelCauseFunc, launched <-chan struct{}) {
	select {
	case <-l.orders:
		l.aborted.Store(true)
		cancel(errAborted)
	case <-launched:
	}
}

// start launches QEMU and takes the guest past the ultravisor.
func (l *life) start(ctx context.Context) error {
	f, rec := l.g.fleet, l.g.Snapshot()
	release, err := qemu.Version(ctx, f.QEMU)
	if err != nil {
		return fault.New(fault.QEMU, "start guest %s: %w", rec.Name, err)
	}
	if err := f.Platform.Check(ctx); err != nil {
		return fault.New(fault.Node, "start guest %s: %w", rec.Name, err)
	}
	cfg, err := l.config(&rec, release.Sandbox)
	if err != nil {
		return err
	}
	argv, err := qemu.Args(cfg)
	if err != nil {
		return fault.New(fault.Launch, "start guest %s: %w", rec.Name, err)
	}
	l.proc, err = f.Launcher.Start(ctx, launch.Spec{
		Name: rec.Name, UUID: rec.UUID, Argv: argv, Dir: f.Store.Dir(rec.Name), LogPath: filepath.Join(f.Store.Dir(rec.Name), qemuLog),
	})
	if err != nil {
		return fault.New(fault.Launch, "start guest %s: %w", rec.Name, err)
	}
	id := l.proc.Identity()
	if err := l.g.update(func(rec *store.Guest) error { rec.Process = &id; return nil }); err != nil {
		return err
	}
	if err := l.g.pass("starting"); err != nil {
		return err
	}
	dialing, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	booting, cancelBoot := context.WithCancelCause(ctx)
	defer cancelBoot(nil)
	go func() {
		select {
		case <-l.proc.Exited():
			cancel(errEnded)
			// After a refusal QEMU ends while the stand-in is still telling why.
			time.AfterFunc(refusalPatience, func() { cancelBoot(errEnded) })
		case <-ctx.Done():
		case <-dialing.Done():
		}
	}()
	if l.monitor, err = qemu.Dial(dialing, cfg.QMPSocket); err != nil {
		return l.startFault(dialing, &rec, err)
	}
	if err := f.Platform.Boot(booting, platform.BootSpec{Config: cfg, Monitor: l.monitor, Log: f.Log}); err != nil {
		return l.startFault(dialing, &rec, err)
	}
	return l.g.pass("unpacked")
}

// startFault finds the words for a failed start.
func (l *life) startFault(dialing context.Context, rec *store.Guest, err error) error {
	var refused *platform.RefusedError
	switch {
	case errors.As(err, &refused):
		return fault.New(fault.Refused, "start guest %s: %w", rec.Name, refused)
	case errors.Is(context.Cause(dialing), errEnded):
		l.waitExit(time.Second)
		message := withTail(fmt.Sprintf("QEMU of guest %s ended at once: %s", rec.Name, l.proc.Exit()), "its last words", filepath.Join(l.g.dir(), qemuLog))
		return fault.New(fault.Launch, "%s", message)
	}
	return fault.New(fault.Launch, "start guest %s: %w", rec.Name, err)
}

// config is the guest's QEMU configuration, in fresh runtime files.
func (l *life) config(rec *store.Guest, sandbox bool) (*qemu.Config, error) {
	f := l.g.fleet
	run := f.runDir(rec.Name)
	if err := os.RemoveAll(run); err != nil {
		return nil, fault.New(fault.Storage, "clear runtime folder: %w", err)
	}
	if err := os.MkdirAll(run, 0o700); err != nil {
		return nil, fault.New(fault.Storage, "make runtime folder: %w", err)
	}
	dir := f.Store.Dir(rec.Name)
	cfg := &qemu.Config{
		Name: rec.Name, UUID: rec.UUID, Binary: f.QEMU, MemoryMiB: rec.MemoryMiB, CPUs: rec.CPUs,
		Kernel: filepath.Join(dir, rec.Image), ConsolePath: filepath.Join(dir, consoleFile),
		ReadinessSocket: filepath.Join(run, readinessSocket), QMPSocket: filepath.Join(run, qmpSocket),
		RuntimeDir: run, Sandbox: sandbox,
	}
	for _, d := range rec.Disks {
		cfg.Disks = append(cfg.Disks, qemu.Disk{Path: filepath.Join(dir, d.File), Serial: d.Serial, ReadOnly: d.ReadOnly})
	}
	f.Platform.Configure(cfg)
	return cfg, nil
}

// adopt takes over a guest that an earlier hostagent left running.
func (l *life) adopt(ctx context.Context) {
	defer l.end()
	rec := l.g.Snapshot()
	dialing, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	monitor, err := qemu.Dial(dialing, filepath.Join(l.g.fleet.runDir(rec.Name), qmpSocket))
	if err == nil {
		l.monitor = monitor
		if pid, e := monitor.PeerPID(); e != nil || pid != rec.Process.PID {
			err = fmt.Errorf("QMP is served by process %d, not %d: %w", pid, rec.Process.PID, errors.Join(e))
		}
	}
	if err != nil && ctx.Err() == nil {
		l.g.fleet.Log.Error("adopt guest: QEMU does not answer, it is ended", "guest", rec.Name, "error", err)
		l.killProcess()
		l.report(l.g.fail(fault.New(fault.QEMUDied, "take over guest %s: %w", rec.Name, err)))
		return
	}
	l.ready = State(rec.State) == Ready
	if State(rec.State) == Stopping {
		l.order(order{timeout: DefaultStop})
	}
	l.supervise(ctx)
}

// supervise follows the guest until its process ends, or hostagent does.
func (l *life) supervise(ctx context.Context) {
	rec := l.g.Snapshot()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l.g.fleet.lives.Go(func() { l.port.run(ctx, filepath.Join(l.g.fleet.runDir(rec.Name), readinessSocket)) })
	deadline := time.NewTimer(time.Until(rec.Started.Add(l.g.fleet.ReadyTimeout)))
	defer deadline.Stop()
	console := time.NewTicker(consoleCheck)
	defer console.Stop()
	force := make(<-chan time.Time) // never, until a stop or a failure sets it
	var events <-chan qemu.Event
	if l.monitor != nil {
		events = l.monitor.Events()
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
			l.aborted.Store(true)
			if o.kill || !l.ready { // a guest that is not ready can't hear
				l.killProcess()
				continue
			}
			if err := l.port.send(readiness.PowerOff{}); err != nil {
				l.g.fleet.Log.Warn("ask guest to power off", "guest", rec.Name, "error", err)
			}
			force = time.After(o.timeout)
		case <-force:
			l.killProcess()
		case <-deadline.C:
			if !l.ready && l.failed == "" && !l.aborted.Load() {
				l.failed = string(fault.NotReady)
				l.killProcess()
			}
		case <-console.C:
			if err := rotate(l.g.ConsolePath()); err != nil {
				l.g.fleet.Log.Warn("rotate console log", "guest", rec.Name, "error", err)
			}
		case <-ctx.Done():
			return // the guest goes on without us
		}
	}
}

// message handles a line from the guest. It tells whether the guest gave up.
func (l *life) message(m readiness.Message) (gaveUp bool) {
	switch m := m.(type) {
	case readiness.Stage:
		if err := l.g.pass(m.Name); err != nil && !errors.Is(err, errAlready) {
			l.report(err)
		}
		if m.Name == readiness.StageReady && !l.ready {
			l.ready = true
			if !l.aborted.Load() {
				l.report(l.g.move(Ready, nil))
			}
		}
	case readiness.Fail:
		if l.failed == "" && !l.ready {
			l.failed = m.Code
			return true
		}
	case readiness.Report:
		select {
		case l.reports <- m.COSE:
		default:
		}
	}
	return false
}

// event keeps what QEMU says of its end.
func (l *life) event(e qemu.Event) {
	if words, ok := platform.PanicWords(e); ok {
		l.panics = words
	}
	if e.Name == "SHUTDOWN" {
		var data struct {
			Reason string `json:"reason"`
		}
		if json.Unmarshal(e.Data, &data) == nil {
			l.reason = data.Reason
		}
	}
}

// drain takes the events that came before the process's end.
func (l *life) drain(events <-chan qemu.Event) {
	patience := time.After(500 * time.Millisecond)
	for events != nil {
		select {
		case e, open := <-events:
			if !open {
				events = nil
				continue
			}
			l.event(e)
		case <-patience:
			return
		}
	}
	for { // FAIL comes just before the power-off
		select {
		case m := <-l.port.messages:
			l.message(m)
		case <-time.After(100 * time.Millisecond):
			return
		}
	}
}

// finish decides what the process's end means.
func (l *life) finish() {
	name, console := l.name(), l.g.ConsolePath()
	var f *fault.Error
	switch {
	case l.failed == string(fault.NotReady):
		f = fault.New(fault.NotReady, "%s", withTail(fmt.Sprintf("guest %s was not ready within %s", name, l.g.fleet.ReadyTimeout), "its console's last lines", console))
	case l.failed != "":
		f = guestFault(name, l.failed)
	case l.aborted.Load():
	case l.panics != "":
		f = fault.New(fault.GuestPanic, "%s", withTail(fmt.Sprintf("guest %s: %s", name, l.panics), "its console's last lines", console))
	case l.reason == "guest-reset" && l.ready:
		l.restart()
		return
	case l.reason == "guest-shutdown" && l.ready:
	case l.reason == "guest-shutdown" || l.reason == "guest-reset":
		f = fault.New(fault.EndedEarly, "%s", withTail(fmt.Sprintf("guest %s ended before it was ready", name), "its console's last lines", console))
	default:
		f = fault.New(fault.QEMUDied, "%s", withTail(fmt.Sprintf("QEMU of guest %s ended: %s", name, l.proc.Exit()), "its last words", filepath.Join(l.g.dir(), qemuLog)))
	}
	if f != nil {
		l.report(l.g.fail(f))
		return
	}
	l.report(l.g.move(Stopped, func(rec *store.Guest) { rec.Process = nil }))
}

// restart follows a guest's reboot: a fresh QEMU, and the same checks again.
func (l *life) restart() {
	next := newLife(l.g)
	err := l.g.move(Starting, func(rec *store.Guest) {
		rec.Started, rec.Stages, rec.Failure, rec.Process = time.Now().UTC(), nil, nil, nil
	})
	if err != nil {
		l.report(err)
		return
	}
	l.g.setLife(next)
	l.g.fleet.lives.Go(func() { next.launch(l.g.fleet.ctx) })
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
	if err := l.port.send(readiness.Challenge{Nonce: nonce}); err != nil {
		return nil, err
	}
	select {
	case report := <-l.reports:
		return report, nil
	case <-l.done:
		return nil, errors.New("the guest ended")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// end lets go of all that the life owns.
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

// waitExit waits for the process's end, for a while.
func (l *life) waitExit(patience time.Duration) {
	if l.proc == nil {
		return
	}
	select {
	case <-l.proc.Exited():
	case <-time.After(patience):
	}
}

func (l *life) name() string { return l.g.Snapshot().Name }

// report logs what can't be told to any caller.
func (l *life) report(err error) {
	if err != nil {
		l.g.fleet.Log.Error("supervise guest", "guest", l.name(), "error", err)
	}
}
