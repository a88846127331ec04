package task

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	events "github.com/containerd/containerd/api/events"
	tasks "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/shim/console"
	"github.com/secexec/secexec/shim/event"
	"github.com/secexec/secexec/shim/ledger"
	"github.com/secexec/secexec/shim/pod"
	"github.com/secexec/secexec/shim/podnet"
)

// Exit statuses of tasks whose guest did not say how its program ended.
const (
	statusOff    = 0   // it powered off, by itself or when asked to
	statusKilled = 137 // it was ended by force: 128+SIGKILL, as everywhere
	statusFailed = 255 // it failed: a panic, no start, no QEMU any more
)

// task is one of containerd's tasks: a sealed guest, or a sandbox, which has
// none. It goes from created to running to stopped, or from created to stopped.
type task struct {
	s     *Service
	id    string
	guest string // its name for hostagent; empty: a sandbox
	made  *tasks.CreateTaskRequest
	want  *pod.Request
	log   *slog.Logger

	ctx      context.Context // ends what follows the guest
	cancel   context.CancelFunc
	launched chan struct{} // closed when the guest was unpacked
	off      chan struct{} // closed when the guest has ended
	copied   chan struct{} // closed when its console is copied
	ended    chan struct{} // closed when exit is valid

	turn    sync.Mutex // held by create, start and delete, one after the other
	follows sync.WaitGroup
	out     io.WriteCloser // containerd's; closed when the guest has ended and all is in it, and by delete
	network string         // namespace that the guest is joined to; empty: none
	offer   *podnet.Offer
	tries   int // starts that hostagent's own end cut short

	mu       sync.Mutex
	status   tasktypes.Status
	process  uint32 // the guest's last, 0: none yet
	unit     string // systemd's, of the guest; empty: none
	ready    bool   // the guest hears requests to power off
	killed   bool   // by SIGKILL, or because it can't hear
	stopping bool
	stopBy   time.Time    // when hostagent ends it by force
	failure  *fault.Error // why it ended, if that is a failure
	exit     ledger.Exit  // valid once ended is closed
}

func newTask(s *Service, r *tasks.CreateTaskRequest, want *pod.Request) *task {
	t := &task{
		s: s, id: r.ID, made: r, want: want, log: s.Log.With("task", r.ID),
		launched: make(chan struct{}), off: make(chan struct{}), copied: make(chan struct{}), ended: make(chan struct{}), status: tasktypes.Status_CREATED,
	}
	if want.Kind != pod.Sandbox {
		t.guest = ledger.GuestName(s.Namespace, r.ID)
	}
	t.ctx, t.cancel = context.WithCancel(s.ctx)
	return t
}

// over tells whether the task has ended.
func (t *task) over() bool {
	select {
	case <-t.ended:
		return true
	default:
		return false
	}
}

// pid is the guest's process, a sandbox's is the shim. A guest that was not
// started has none: a network that somebody made for the shim's process would be
// the node's.
func (t *task) pid() uint32 {
	if t.guest == "" {
		return self()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.process
}

// processes are never none: containerd ends a shim without processes when it is
// started anew.
func (t *task) processes() []*tasktypes.ProcessInfo {
	pid := t.pid()
	if pid == 0 || t.over() {
		pid = self()
	}
	return []*tasktypes.ProcessInfo{{Pid: pid}}
}

func (t *task) state() *tasks.StateResponse {
	pid := t.pid()
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &tasks.StateResponse{
		ID: t.id, Bundle: t.made.Bundle, Pid: pid, Status: t.status,
		Stdin: t.made.Stdin, Stdout: t.made.Stdout, Stderr: t.made.Stderr, Terminal: t.made.Terminal,
	}
	if t.status == tasktypes.Status_STOPPED {
		r.ExitStatus, r.ExitedAt = t.exit.Status, timestamppb.New(t.exit.At)
	}
	return r
}

// exited is how the task ended, once it has.
func (t *task) exited() ledger.Exit {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.exit
}

// record is what the ledger has about the task.
func (t *task) record() *ledger.Record {
	return &ledger.Record{Namespace: t.s.Namespace, ID: t.id, Guest: t.guest, Folder: t.made.Bundle, NetNS: t.network}
}

// create takes over the guest's bundle, which is the task's root file system.
func (t *task) create(ctx context.Context) (err error) {
	t.turn.Lock()
	defer t.turn.Unlock()
	if t.guest == "" {
		return nil
	}
	netns, err := t.netns()
	if err != nil {
		return err
	}
	if t.out, err = console.Open(t.made.Stdout, console.Task{Namespace: t.s.Namespace, ID: t.id}); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			t.out.Close()
		}
	}()
	if _, err := t.s.Ledger.Read(t.guest); err == nil { // of an earlier task of this name
		if err := t.s.Host.remove(ctx, t.guest); err != nil {
			return err
		}
	}
	t.network = netns
	if err := t.s.Ledger.Write(t.record()); err != nil {
		return err
	}
	r := t.want.Create
	r.Name, r.Bundle, r.RequestId = t.guest, filepath.Join(t.made.Bundle, "rootfs"), client.NewRequestID()
	if err = t.join(ctx, netns, r); err == nil {
		err = t.takeOver(ctx, r)
	}
	if err != nil {
		t.forget(context.WithoutCancel(ctx))
	}
	return err
}

// takeOver lets hostagent copy what is in the root file system.
func (t *task) takeOver(ctx context.Context, r *hostagentv1.CreateRequest) error {
	unmount, err := mountAll(t.made.Rootfs, r.Bundle)
	defer unmount()
	if err != nil {
		return err
	}
	_, err = t.s.Host.create(ctx, r)
	return err
}

// forget ends and deletes the guest, and with it the record; while hostagent is
// away another process does.
func (t *task) forget(ctx context.Context) {
	defer t.leave(ctx, t.network)
	if err := t.s.Host.remove(ctx, t.guest); err != nil {
		t.log.Warn("delete guest: left to another process", "guest", t.guest, "error", err)
		r := t.record()
		r.Abandoned = true
		if err := t.s.Ledger.Write(r); err != nil {
			t.log.Error("delete guest", "guest", t.guest, "error", err)
		}
		t.s.Collect()
		return
	}
	if err := t.s.Ledger.Remove(t.guest); err != nil {
		t.log.Error("delete guest", "guest", t.guest, "error", err)
	}
}

// start starts the guest and waits until it is unpacked.
func (t *task) start(ctx context.Context) error {
	t.turn.Lock()
	defer t.turn.Unlock()
	t.mu.Lock()
	status := t.status
	t.mu.Unlock()
	if status != tasktypes.Status_CREATED {
		return failedPrecondition("it was started before")
	}
	if t.guest == "" {
		t.run(self())
		return nil
	}
	if _, err := t.s.Host.start(ctx, t.guest, client.NewRequestID()); err != nil {
		return err
	}
	t.mu.Lock()
	killed := t.killed || t.stopping
	t.mu.Unlock()
	if killed { // before hostagent had anything to kill
		if err := t.s.Host.kill(ctx, t.guest); err != nil {
			return err
		}
	}
	t.follows.Go(func() {
		if err := t.s.Host.follow(t.ctx, t.guest, t.seen); err != nil && t.ctx.Err() == nil {
			t.log.Error("follow guest", "guest", t.guest, "error", err)
		}
	})
	t.follows.Go(t.copyConsole)
	select {
	case <-t.launched:
		return nil
	case <-t.ended:
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.failure != nil {
			return t.failure
		}
		return failedPrecondition("the guest was ended while it started")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// copyConsole copies the guest's console to containerd's.
func (t *task) copyConsole() {
	defer close(t.copied)
	defer t.out.Close()
	if err := console.Follow(t.ctx, t.s.Host, t.guest, t.off, t.out); err != nil && t.ctx.Err() == nil {
		t.log.Warn("copy console", "guest", t.guest, "error", err)
	}
}

// run makes the task a running one.
func (t *task) run(pid uint32) {
	t.mu.Lock()
	t.status, t.process = tasktypes.Status_RUNNING, pid
	t.mu.Unlock()
	close(t.launched)
	t.s.Events.Publish(event.Start, &events.TaskStart{ContainerID: t.id, Pid: pid})
}

// seen takes note of the guest's state. One goroutine calls it.
func (t *task) seen(g *hostagentv1.Guest) (enough bool) {
	if g == nil {
		t.finish(ledger.Exit{Status: statusFailed, At: time.Now()}, fault.New(fault.NoGuest, "guest %s was deleted", t.guest))
		return true
	}
	switch g.State {
	case "stopped":
		t.finish(t.outcome(g), nil)
		return true
	case "failed":
		f := &fault.Error{Code: fault.Code(g.Failure.GetCode()), Message: g.Failure.GetMessage(), Remedy: g.Failure.GetRemedy()}
		if f.Code == fault.Interrupted && t.again() {
			return false
		}
		t.finish(t.outcome(g), f)
		return true
	case "running", "ready", "stopping":
		select {
		case <-t.launched:
			t.mu.Lock()
			t.process = uint32(g.Pid)
			t.mu.Unlock()
		default:
			t.run(uint32(g.Pid))
		}
		t.mu.Lock()
		t.unit, t.ready = g.Unit, t.ready || g.State == "ready"
		t.mu.Unlock()
	}
	return false
}

// again starts a guest once more whose start was cut short by hostagent's own
// end.
func (t *task) again() bool {
	t.mu.Lock()
	refused := t.killed || t.stopping || t.tries >= maxTries
	t.mu.Unlock()
	if refused {
		return false
	}
	t.tries++
	if _, err := t.s.Host.start(t.ctx, t.guest, client.NewRequestID()); err != nil {
		t.log.Warn("start guest again", "guest", t.guest, "error", err)
		return false
	}
	return true
}

// maxTries bounds the starts of a guest whose hostagent ends again and again.
const maxTries = 3

// outcome is how a guest's end counts.
func (t *task) outcome(g *hostagentv1.Guest) ledger.Exit {
	t.mu.Lock()
	defer t.mu.Unlock()
	exit := ledger.Exit{Status: Status(g), At: time.Now()}
	// Of a guest that was asked to stop hostagent does not tell whether it had to
	// be ended by force.
	forced := t.killed || t.stopping && !exit.At.Before(t.stopBy)
	if g.ExitStatus == nil && g.State == "stopped" && forced {
		exit.Status = statusKilled
	}
	return exit
}

// Status is the exit status of a guest that has ended without an order.
func Status(g *hostagentv1.Guest) uint32 {
	switch {
	case g.ExitStatus != nil:
		return *g.ExitStatus
	case g.State == "stopped":
		return statusOff
	case g.Failure.GetCode() == string(fault.OutOfMemory):
		return statusKilled
	}
	return statusFailed
}

// finish ends the task of a guest that ran. Its last words come first, as those
// of a process would: some clients stop reading as soon as they hear of the end.
func (t *task) finish(exit ledger.Exit, failure *fault.Error) {
	close(t.off)
	select {
	case <-t.copied:
	case <-time.After(drainTime): // nobody reads
	case <-t.ctx.Done():
	}
	t.end(exit, failure)
}

// drainTime is how long a task's end may wait for the reader of its output.
const drainTime = 5 * time.Second

// end ends the task, once.
func (t *task) end(exit ledger.Exit, failure *fault.Error) {
	t.mu.Lock()
	if t.status == tasktypes.Status_STOPPED {
		t.mu.Unlock()
		return
	}
	t.status, t.exit, t.failure = tasktypes.Status_STOPPED, exit, failure
	pid := t.process
	t.mu.Unlock()
	if t.guest != "" {
		r := t.record()
		r.Pid, r.Exit = pid, &exit
		if err := t.s.Ledger.Write(r); err != nil {
			t.log.Error("record exit", "status", exit.Status, "error", err)
		}
	}
	if failure != nil {
		t.log.Error("guest failed", "guest", t.guest, "status", exit.Status, "error", failure)
		if failure.Code == fault.OutOfMemory {
			t.s.Events.Publish(event.OOM, &events.TaskOOM{ContainerID: t.id})
		}
	}
	close(t.ended)
	t.s.Events.Publish(event.Exit, &events.TaskExit{ContainerID: t.id, ID: t.id, Pid: t.pid(), ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At)})
}

// delete removes the guest of a task that does not run.
func (t *task) delete(ctx context.Context) (ledger.Exit, error) {
	t.turn.Lock()
	defer t.turn.Unlock()
	t.mu.Lock()
	status := t.status
	t.mu.Unlock()
	switch status {
	case tasktypes.Status_RUNNING:
		return ledger.Exit{}, failedPrecondition("it runs")
	case tasktypes.Status_CREATED:
		t.end(ledger.Exit{Status: statusKilled, At: time.Now()}, nil)
	}
	if t.guest != "" {
		t.forget(ctx)
		t.cancel()
		t.out.Close()
		t.follows.Wait()
	}
	t.cancel()
	return t.exited(), nil
}
