package task

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	tasks "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/shim/event"
	"github.com/secexec/secexec/shim/ledger"
	"github.com/secexec/secexec/shim/pod"
)

// node is a hostagent that has guests of a test's making.
type node struct {
	hostagentv1.HostagentService

	mu      sync.Mutex
	changed *sync.Cond
	guests  map[string]*hostagentv1.Guest
	calls   []string
	console string
	refuse  map[string]fault.Code // by call
	hears   bool                  // guests power off when asked to
	starts  string                // state that a start leads to
}

func failure(code fault.Code) error {
	f := fault.New(code, "it is so")
	st, err := grpcstatus.New(code.Status(), f.Message).WithDetails(&hostagentv1.Failure{Code: string(f.Code), Message: f.Message, Remedy: f.Remedy})
	if err != nil {
		return err
	}
	return st.Err()
}

// call notes a call, and is what every one begins with.
func (n *node) call(what, guest string) (*hostagentv1.Guest, error) {
	n.calls = append(n.calls, what)
	if code := n.refuse[what]; code != "" {
		return nil, failure(code)
	}
	g := n.guests[guest]
	if g == nil && what != "create" {
		return nil, failure(fault.NoGuest)
	}
	return g, nil
}

// set changes a guest.
func (n *node) set(name string, change func(*hostagentv1.Guest)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setLocked(name, change)
}

func (n *node) setLocked(name string, change func(*hostagentv1.Guest)) {
	g := proto.Clone(n.guests[name]).(*hostagentv1.Guest)
	change(g)
	n.guests[name] = g
	n.changed.Broadcast()
}

func (n *node) Create(_ context.Context, r *hostagentv1.CreateRequest) (*hostagentv1.Guest, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := n.call("create", r.Name); err != nil {
		return nil, err
	}
	n.guests[r.Name] = &hostagentv1.Guest{Name: r.Name, State: "created", Folder: r.Bundle}
	return n.guests[r.Name], nil
}

func (n *node) Start(_ context.Context, r *hostagentv1.StartRequest) (*hostagentv1.Guest, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := n.call("start", r.Name); err != nil {
		return nil, err
	}
	n.setLocked(r.Name, func(g *hostagentv1.Guest) {
		g.State, g.Pid = n.starts, 4711
		if g.State == "failed" {
			g.Pid, g.Failure = 0, &hostagentv1.Failure{Code: "H209", Message: "the ultravisor refused it", Remedy: "seal it again"}
		}
	})
	return n.guests[r.Name], nil
}

func (n *node) Stop(_ context.Context, r *hostagentv1.StopRequest) (*hostagentv1.Guest, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	g, err := n.call("stop", r.Name)
	if err != nil {
		return nil, err
	}
	n.setLocked(r.Name, func(g *hostagentv1.Guest) {
		g.State = "stopping"
		if n.hears {
			g.State, g.Pid = "stopped", 0
		}
	})
	return g, nil
}

func (n *node) Kill(_ context.Context, r *hostagentv1.NameRequest) (*hostagentv1.Guest, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	g, err := n.call("kill", r.Name)
	if err != nil {
		return nil, err
	}
	n.setLocked(r.Name, func(g *hostagentv1.Guest) { g.State, g.Pid = "stopped", 0 })
	return g, nil
}

func (n *node) Delete(_ context.Context, r *hostagentv1.NameRequest) (*hostagentv1.DeleteResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := n.call("delete", r.Name); err != nil {
		return nil, err
	}
	delete(n.guests, r.Name)
	n.changed.Broadcast()
	return new(hostagentv1.DeleteResponse), nil
}

func (n *node) Get(_ context.Context, r *hostagentv1.NameRequest) (*hostagentv1.Guest, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if g := n.guests[r.Name]; g != nil {
		return g, nil
	}
	return nil, failure(fault.NoGuest)
}

func (n *node) Console(_ context.Context, r *hostagentv1.ConsoleRequest) (*hostagentv1.ConsoleResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	size := int64(len(n.console))
	return &hostagentv1.ConsoleResponse{Data: []byte(n.console[min(r.Offset, size):]), Next: size, Size: size}, nil
}

func (n *node) Events(ctx context.Context, r *hostagentv1.EventsRequest, stream hostagentv1.Hostagent_EventsServer) error {
	defer context.AfterFunc(ctx, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.changed.Broadcast()
	})()
	n.mu.Lock()
	defer n.mu.Unlock()
	last, was := n.guests[r.Name], true
	e := &hostagentv1.Event{Epoch: "e"}
	for {
		if err := stream.Send(e); err != nil {
			return err
		}
		for was = n.guests[r.Name] != nil; ctx.Err() == nil && n.guests[r.Name] == last; {
			n.changed.Wait()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e = &hostagentv1.Event{Epoch: "e", Sequence: e.Sequence + 1, Guest: n.guests[r.Name]}
		if e.Guest == nil && was {
			e.Guest, e.Deleted = last, true
		}
		last = n.guests[r.Name]
	}
}

// bench is a service with a fake hostagent, and a task's folder.
type bench struct {
	*Service
	t      *testing.T
	node   *node
	dir    string
	quits  int
	debts  int // collectors that were started
	cancel context.CancelFunc
	stop   func()
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), node: &node{guests: make(map[string]*hostagentv1.Guest), starts: "running", refuse: make(map[string]fault.Code)}}
	b.node.changed = sync.NewCond(&b.node.mu)
	b.serve()
	l, err := ledger.Open(filepath.Join(b.dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, b.cancel = context.WithCancel(context.Background())
	b.Service = &Service{
		Namespace: "default", Host: &Host{Address: filepath.Join(b.dir, "h"), Patience: 10 * time.Second}, Ledger: l,
		Events: event.New("/nowhere", "default", slog.New(slog.DiscardHandler)), Log: slog.New(slog.DiscardHandler),
		Quit: func() { b.quits++ }, Collect: func() { b.debts++ },
	}
	b.Run(ctx)
	t.Cleanup(func() {
		b.cancel()
		b.stop()
	})
	return b
}

// serve makes hostagent answer.
func (b *bench) serve() {
	b.t.Helper()
	l, err := net.Listen("unix", filepath.Join(b.dir, "h"))
	if err != nil {
		b.t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		b.t.Fatal(err)
	}
	hostagentv1.RegisterHostagentService(server, b.node)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(context.Background(), l)
	}()
	b.stop = func() {
		server.Close()
		<-done
	}
}

// create makes a task of a config.json.
func (b *bench) create(id, config string) error {
	b.t.Helper()
	folder := filepath.Join(b.dir, id)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "config.json"), []byte(config), 0o600); err != nil {
		b.t.Fatal(err)
	}
	_, err := b.Create(b.t.Context(), &tasks.CreateTaskRequest{ID: id, Bundle: folder, Stdout: "file://" + filepath.Join(folder, "console")})
	return err
}

// must are calls that must succeed.
func (b *bench) must(errs ...error) {
	b.t.Helper()
	if err := errors.Join(errs...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) start(id string) error {
	_, err := b.Start(b.t.Context(), &tasks.StartRequest{ID: id})
	return err
}

func (b *bench) signal(id string, s syscall.Signal) error {
	_, err := b.Kill(b.t.Context(), &tasks.KillRequest{ID: id, Signal: uint32(s)})
	return err
}

// status waits for a task's end.
func (b *bench) status(id string) uint32 {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	r, err := b.Wait(ctx, &tasks.WaitRequest{ID: id})
	b.must(err)
	state, err := b.State(ctx, &tasks.StateRequest{ID: id})
	b.must(err)
	if state.Status != tasktypes.Status_STOPPED || state.ExitStatus != r.ExitStatus {
		b.t.Errorf("after its end task %s is %v", id, state)
	}
	return r.ExitStatus
}

func (b *bench) remove(id string) *tasks.DeleteResponse {
	b.t.Helper()
	r, err := b.Delete(b.t.Context(), &tasks.DeleteRequest{ID: id})
	b.must(err)
	return r
}

// empty checks that nothing is left.
func (b *bench) empty() {
	b.t.Helper()
	files, _ := filepath.Glob(filepath.Join(b.dir, "ledger/*.json"))
	b.node.mu.Lock()
	defer b.node.mu.Unlock()
	if len(files) > 0 || len(b.node.guests) > 0 || len(b.tasks) > 0 {
		b.t.Errorf("left: records %v, guests %v, tasks %v", files, b.node.guests, b.tasks)
	}
}

// Tasks' config.json, as containerd 1.6 writes them, but without a path to a
// network.
var (
	alone     = config("ctr-plain")
	sandbox   = config("pod-sandbox")
	container = config("pod")
)

var netnsPath = regexp.MustCompile(`("type":"network"),"path":"[^"]*"`)

func config(name string) string {
	text, err := os.ReadFile("../pod/testdata/containerd-1.6/" + name + ".json")
	if err != nil {
		panic(err)
	}
	return netnsPath.ReplaceAllString(string(text), "$1")
}

// podID is the sandbox's.
var podID = func() string {
	want, err := pod.Read([]byte(sandbox))
	if err != nil {
		panic(err)
	}
	return want.Sandbox
}()

func wants(t *testing.T, err error, code codes.Code, words string) {
	t.Helper()
	if grpcstatus.Code(err) != code || err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("error %v, want %s with %q", err, code, words)
	}
}

func TestLife(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.must(b.create("web", alone))
	wants(t, b.create("web", alone), codes.AlreadyExists, "it exists already")
	guest := ledger.GuestName("default", "web")
	b.node.console = "hello\n"
	b.must(b.start("web"))
	wants(t, b.start("web"), codes.FailedPrecondition, "it was started before")
	state, err := b.State(t.Context(), &tasks.StateRequest{ID: "web"})
	if err != nil || state.Pid != 4711 || state.Status != tasktypes.Status_RUNNING {
		t.Errorf("state %v %v", state, err)
	}
	_, err = b.Delete(t.Context(), &tasks.DeleteRequest{ID: "web"})
	wants(t, err, codes.FailedPrecondition, "it runs")
	wants(t, b.signal("web", syscall.SIGUSR1), codes.Unimplemented, "SIGTERM asks")
	b.must(b.signal("web", syscall.SIGWINCH))
	b.node.set(guest, func(g *hostagentv1.Guest) {
		g.State, g.Pid, g.ExitStatus = "failed", 0, proto.Uint32(3)
		g.Failure = &hostagentv1.Failure{Code: "H249"}
	})
	if s := b.status("web"); s != 3 {
		t.Errorf("status %d", s)
	}
	wants(t, b.signal("web", syscall.SIGKILL), codes.NotFound, "ended already")
	if text, _ := os.ReadFile(filepath.Join(b.dir, "web/console")); string(text) != "hello\n" {
		t.Errorf("console %q", text)
	}
	if r := b.remove("web"); r.ExitStatus != 3 || r.Pid != 4711 {
		t.Errorf("deleted: %v", r)
	}
	b.empty()
	_, err = b.State(t.Context(), &tasks.StateRequest{ID: "web"})
	wants(t, err, codes.NotFound, "task web: not found")
}

// How a guest's end counts.
func TestExitStatus(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ready  bool
		signal syscall.Signal // 0: it ends by itself, as end says
		end    func(*hostagentv1.Guest)
		want   uint32
	}{
		"powers off":        {end: func(g *hostagentv1.Guest) { g.State = "stopped" }, want: 0},
		"says its status":   {end: func(g *hostagentv1.Guest) { g.State, g.ExitStatus = "stopped", proto.Uint32(0) }, want: 0},
		"panics":            {end: func(g *hostagentv1.Guest) { g.State, g.Failure = "failed", &hostagentv1.Failure{Code: "H212"} }, want: 255},
		"out of memory":     {end: func(g *hostagentv1.Guest) { g.State, g.Failure = "failed", &hostagentv1.Failure{Code: "H243"} }, want: 137},
		"asked when ready":  {ready: true, signal: syscall.SIGTERM, want: 0},
		"asked too early":   {signal: syscall.SIGTERM, want: 137},
		"killed when ready": {ready: true, signal: syscall.SIGKILL, want: 137},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.node.hears = true
			b.must(b.create("web", alone), b.start("web"))
			guest := ledger.GuestName("default", "web")
			if c.ready {
				b.node.set(guest, func(g *hostagentv1.Guest) { g.State = "ready" })
				task := b.tasks["web"]
				for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
					task.mu.Lock()
					ready := task.ready
					task.mu.Unlock()
					if ready {
						break
					}
				}
			}
			if c.signal != 0 {
				b.must(b.signal("web", c.signal))
			} else {
				b.node.set(guest, func(g *hostagentv1.Guest) {
					g.Pid = 0
					c.end(g)
				})
			}
			if s := b.status("web"); s != c.want {
				t.Errorf("status %d, want %d", s, c.want)
			}
			b.remove("web")
			b.empty()
		})
	}
}

// hostagent's refusals reach containerd with code, sentence and remedy, and leave
// nothing behind.
func TestRefusals(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.node.refuse["create"] = fault.NoSlot
	wants(t, b.create("web", alone), codes.FailedPrecondition, "create task web: H202: it is so: run it on a host that has one")
	b.empty()
	b.node.refuse = nil
	b.node.starts = "failed"
	b.must(b.create("web", alone))
	wants(t, b.start("web"), codes.PermissionDenied, "start task web: H209: the ultravisor refused it: seal it again")
	if s := b.status("web"); s != 255 {
		t.Errorf("status %d", s)
	}
	b.remove("web")
	b.empty()
	wants(t, b.create("web", "{"), codes.InvalidArgument, "invalid config.json")
	_, err := b.Create(t.Context(), &tasks.CreateTaskRequest{ID: "web", Bundle: filepath.Join(b.dir, "web"), Checkpoint: "/x"})
	wants(t, err, codes.Unimplemented, "can't be restored")
	b.empty()
}

// A task that was never started can be killed and deleted.
func TestNeverStarted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.must(b.create("a", alone))
	if state, err := b.State(t.Context(), &tasks.StateRequest{ID: "a"}); err != nil || state.Pid != 0 || state.Status != tasktypes.Status_CREATED {
		t.Errorf("created: %v %v", state, err)
	}
	if pids, err := b.Pids(t.Context(), &tasks.PidsRequest{ID: "a"}); err != nil || len(pids.Processes) != 1 || pids.Processes[0].Pid != self() {
		t.Errorf("created: %v %v", pids, err)
	}
	b.must(b.signal("a", syscall.SIGKILL))
	if s := b.status("a"); s != 137 {
		t.Errorf("status %d", s)
	}
	wants(t, b.start("a"), codes.FailedPrecondition, "it was started before")
	b.remove("a")
	b.must(b.create("b", alone))
	if r := b.remove("b"); r.ExitStatus != 137 {
		t.Errorf("deleted: %v", r)
	}
	b.empty()
}

// A pod has a sandbox, which is no guest, and one guest at a time.
func TestPod(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	wants(t, b.create("one", container), codes.FailedPrecondition, "has no sandbox any more")
	b.must(b.create(podID, sandbox), b.start(podID), b.create("one", container), b.start("one"))
	wants(t, b.create("two", container), codes.FailedPrecondition, "a pod holds one sealed guest, and this one has it already in container one")
	_, err := b.Shutdown(t.Context(), &tasks.ShutdownRequest{})
	if err != nil || b.quits != 0 {
		t.Errorf("with tasks the shim ends: %v", err)
	}
	b.must(b.signal("one", syscall.SIGKILL))
	b.status("one")
	b.must(b.create("two", container)) // it is started again, say
	b.remove("one")
	b.remove("two")
	stats, err := b.Stats(t.Context(), &tasks.StatsRequest{ID: podID})
	if err != nil || stats.Stats.TypeUrl != "io.containerd.cgroups.v2.Metrics" {
		t.Errorf("stats %v %v", stats, err)
	}
	if state, err := b.State(t.Context(), &tasks.StateRequest{ID: podID}); err != nil || state.Pid != self() {
		t.Errorf("sandbox: %v %v", state, err)
	}
	b.must(b.signal(podID, syscall.SIGTERM))
	if s := b.status(podID); s != 0 {
		t.Errorf("status %d", s)
	}
	b.remove(podID)
	b.empty()
	if _, err := b.Shutdown(t.Context(), &tasks.ShutdownRequest{}); err != nil || b.quits != 1 {
		t.Errorf("without tasks it does not end: %v", err)
	}
}

// hostagent is started anew: the task goes on, and its end is seen.
func TestHostagentComesBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.must(b.create("web", alone), b.start("web"))
	b.stop()
	time.Sleep(20 * time.Millisecond)
	b.node.set(ledger.GuestName("default", "web"), func(g *hostagentv1.Guest) { g.State, g.Pid, g.ExitStatus = "stopped", 0, proto.Uint32(5) })
	b.serve()
	if s := b.status("web"); s != 5 {
		t.Errorf("status %d", s)
	}
	b.remove("web")
	b.empty()
}

// A guest that somebody else deletes has ended.
func TestDeletedElsewhere(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.must(b.create("web", alone), b.start("web"))
	if err := b.Host.remove(t.Context(), ledger.GuestName("default", "web")); err != nil {
		t.Fatal(err)
	}
	if s := b.status("web"); s != 0 && s != 255 { // it was ended first, which may be seen
		t.Errorf("status %d", s)
	}
	b.remove("web")
	b.empty()
}

// The delete command, after the shim's end.
func TestDeleteCommand(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]struct {
		before func(b *bench, guest string)
		want   uint32
		pid    uint32
	}{
		"it runs": {func(*bench, string) {}, 137, 4711},
		"it has ended": {func(b *bench, guest string) {
			b.node.set(guest, func(g *hostagentv1.Guest) { g.State, g.Pid, g.ExitStatus = "stopped", 0, proto.Uint32(9) })
		}, 9, 0},
		"its end is recorded": {func(b *bench, guest string) {
			r, err := b.Ledger.Read(guest)
			b.must(err)
			r.Exit, r.Pid = &ledger.Exit{Status: 4, At: time.Unix(1, 0)}, 12
			b.must(b.Ledger.Write(r))
			b.node.set(guest, func(g *hostagentv1.Guest) { g.State, g.Pid = "stopped", 0 })
		}, 4, 12},
		"it is gone": {func(b *bench, guest string) { b.must(b.Host.remove(b.t.Context(), guest)) }, 137, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			guest := ledger.GuestName("default", "web")
			// What a shim that was killed has done: create and start.
			b.must(b.Ledger.Write(&ledger.Record{Namespace: "default", ID: "web", Guest: guest, Folder: b.dir}))
			_, err := b.Host.create(t.Context(), &hostagentv1.CreateRequest{Name: guest, RequestId: "1"})
			b.must(err)
			_, err = b.Host.start(t.Context(), guest, "2")
			b.must(err)
			c.before(b, guest)
			pid, exit, err := Delete(t.Context(), b.Host.Address, b.Ledger, "default", "web", log, func() { t.Error("a collector was started") })
			if err != nil || exit.Status != c.want || pid != c.pid {
				t.Errorf("process %d, %v, %v", pid, exit, err)
			}
			b.empty()
			// containerd calls it for every task, deleted ones too.
			if _, _, err := Delete(t.Context(), b.Host.Address, b.Ledger, "default", "web", log, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// With no hostagent the guest is left to a collector, which deletes it as soon as
// there is one.
func TestCollect(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	b := newBench(t)
	guest := ledger.GuestName("default", "web")
	b.must(b.Ledger.Write(&ledger.Record{Namespace: "default", ID: "web", Guest: guest, Folder: b.dir}))
	_, err := b.Host.create(t.Context(), &hostagentv1.CreateRequest{Name: guest, RequestId: "1"})
	b.must(err)
	b.stop()
	collectors := 0
	if _, exit, err := Delete(t.Context(), b.Host.Address, b.Ledger, "default", "web", log, func() { collectors++ }); err != nil || exit.Status != 137 || collectors != 1 {
		t.Fatalf("%v %v, %d collectors", exit, err, collectors)
	}
	done := make(chan error, 1)
	go func() {
		done <- Collect(t.Context(), &Host{Address: b.Host.Address, Patience: time.Millisecond}, b.Ledger, log)
	}()
	time.Sleep(10 * time.Millisecond)
	b.serve()
	if err := <-done; err != nil {
		t.Error(err)
	}
	b.empty()
}

// A guest that a task of the same name left behind makes room.
func TestCreatedOver(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	guest := ledger.GuestName("default", "web")
	b.must(b.Ledger.Write(&ledger.Record{Namespace: "default", ID: "web", Guest: guest, Folder: b.dir, Abandoned: true}))
	_, err := b.Host.create(t.Context(), &hostagentv1.CreateRequest{Name: guest, RequestId: "1"})
	b.must(err, b.create("web", alone))
	if debts, err := b.Ledger.Debts(); err != nil || len(debts) != 0 {
		t.Errorf("debts %v %v", debts, err)
	}
	b.must(b.start("web"), b.signal("web", syscall.SIGKILL))
	b.status("web")
	b.remove("web")
	b.empty()
}
