// Package task is containerd's Task service (shim v2) in front of hostagent: one
// task is one sealed guest, or a pod's sandbox, which is bookkeeping.
//
// # What survives what
//
// containerd connects to a shim once for each task. What it does when something
// dies follows from its runtime/v2 (shim.go, shim_load.go, binary.go; core/runtime/v2
// since 2.0), read for 1.6, 1.7 and 2.x, which agree:
//
//   - The shim dies. The connection's end makes containerd call the shim's delete
//     command for each of its tasks at once, with 5 seconds for it, publish the
//     task's exit and deletion by what the command answers, and forget the task.
//     It never starts a shim for a task that there is, and there is nobody else
//     who would ask about the guest: one that went on would run beside the one
//     that Kubernetes starts in its place. So delete ends the guest ([Delete]).
//     The exit status is what the record says, or the guest, or 137.
//   - containerd dies. The shim, a process of its own, goes on, and so does the
//     guest. The next containerd connects to the address in the task's folder,
//     and asks for the state. Events wait for it ([event.Publisher]). If the shim
//     died meanwhile too, it can't connect, and calls delete as above.
//   - hostagent dies. Guests go on by its own promise; the shim waits and connects
//     to the next one. A call waits up to 30 s.
//   - hostagent is away when delete is called. Five seconds may be too short for
//     it: delete marks the guest's record as abandoned, answers, and leaves a
//     process behind that ends and deletes the guest when there is a hostagent
//     ([Collect]).
//   - The node. Guests have ended; hostagent still has them, stopped. containerd's
//     folder of tasks is gone with /run, by which the next shim that is started
//     knows that their guests are to be deleted.
package task

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	events "github.com/containerd/containerd/api/events"
	tasks "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/secexec/secexec/shim/event"
	"github.com/secexec/secexec/shim/ledger"
	"github.com/secexec/secexec/shim/pod"
)

// Service serves the tasks of one shim: a guest alone, or a pod's sandbox and
// its container.
type Service struct {
	Namespace string
	Host      *Host
	Ledger    *ledger.Ledger
	Events    *event.Publisher
	Log       *slog.Logger
	Quit      func() // called when containerd wants the shim to end
	Collect   func() // starts a process that calls the function Collect

	ctx   context.Context // ends what follows guests
	mu    sync.Mutex
	tasks map[string]*task
}

var _ tasks.TTRPCTaskService = (*Service)(nil)

// Run makes the service ready; what it starts ends with the context.
func (s *Service) Run(ctx context.Context) {
	s.ctx, s.tasks = ctx, make(map[string]*task)
}

// find returns a task. There are no other processes in one.
func (s *Service) find(id, exec string) (*task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[id]
	if t == nil {
		return nil, notFound("task %s", id)
	}
	if exec != "" {
		return nil, notFound("process %s of task %s: a sealed guest runs none for its host", exec, id)
	}
	return t, nil
}

// claim adds a task, unless its pod has a guest already.
func (s *Service) claim(t *task) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tasks[t.id] != nil {
		return refuse(codes.AlreadyExists, "create task %s: it exists already", t.id)
	}
	for _, other := range s.tasks {
		if t.guest != "" && other.guest != "" && !other.over() {
			return failedPrecondition("create task %s: a pod holds one sealed guest, and this one has it already in container %s: put other containers into pods of their own", t.id, other.id)
		}
	}
	s.tasks[t.id] = t
	return nil
}

func (s *Service) drop(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tasks[t.id] == t {
		delete(s.tasks, t.id)
	}
}

// Create implements the Task service: it takes over the guest's bundle.
func (s *Service) Create(ctx context.Context, r *tasks.CreateTaskRequest) (*tasks.CreateTaskResponse, error) {
	if r.Checkpoint != "" {
		return nil, notImplemented("create task %s: a sealed guest can't be restored from a checkpoint", r.ID)
	}
	config, err := os.ReadFile(filepath.Join(r.Bundle, "config.json"))
	if err != nil {
		return nil, status(fmt.Errorf("create task %s: %w", r.ID, err))
	}
	want, err := pod.Read(config)
	if err != nil {
		return nil, invalid("create task %s: %w", r.ID, err)
	}
	if err := pod.Locate(want.Create.GetDisks()); err != nil {
		return nil, invalid("create task %s: %w", r.ID, err)
	}
	if r.Terminal {
		return nil, invalid("create task %s: a sealed guest's console takes no input: run it without a terminal", r.ID)
	}
	t := newTask(s, r, want)
	if err := s.claim(t); err != nil {
		return nil, err
	}
	if err := t.create(ctx); err != nil {
		s.drop(t)
		return nil, status(fmt.Errorf("create task %s: %w", r.ID, err))
	}
	s.Events.Publish(event.Create, &events.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs,
		IO: &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	return &tasks.CreateTaskResponse{Pid: t.pid()}, nil
}

// Start implements the Task service: it returns when the guest is unpacked, so
// that a refusal by the ultravisor is an answer.
func (s *Service) Start(ctx context.Context, r *tasks.StartRequest) (*tasks.StartResponse, error) {
	t, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := t.start(ctx); err != nil {
		return nil, status(fmt.Errorf("start task %s: %w", r.ID, err))
	}
	return &tasks.StartResponse{Pid: t.pid()}, nil
}

// State implements the Task service.
func (s *Service) State(_ context.Context, r *tasks.StateRequest) (*tasks.StateResponse, error) {
	t, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return t.state(), nil
}

// Wait implements the Task service.
func (s *Service) Wait(ctx context.Context, r *tasks.WaitRequest) (*tasks.WaitResponse, error) {
	t, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-t.ended:
		exit := t.exited()
		return &tasks.WaitResponse{ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At)}, nil
	case <-ctx.Done():
		return nil, status(context.Cause(ctx))
	}
}

// Kill implements the Task service: SIGKILL ends the guest, signals that ask to
// end ask it to power off.
func (s *Service) Kill(ctx context.Context, r *tasks.KillRequest) (*emptypb.Empty, error) {
	t, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := t.kill(ctx, r.Signal); err != nil {
		return nil, status(fmt.Errorf("kill task %s: %w", r.ID, err))
	}
	return &emptypb.Empty{}, nil
}

// Delete implements the Task service, for a task that does not run.
func (s *Service) Delete(ctx context.Context, r *tasks.DeleteRequest) (*tasks.DeleteResponse, error) {
	t, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	exit, err := t.delete(ctx)
	if err != nil {
		return nil, status(fmt.Errorf("delete task %s: %w", r.ID, err))
	}
	s.drop(t)
	s.Events.Publish(event.Delete, &events.TaskDelete{ContainerID: t.id, Pid: t.pid(), ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At)})
	return &tasks.DeleteResponse{Pid: t.pid(), ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At)}, nil
}

// Pids implements the Task service. What has no process of its own, a guest that
// does not run or a sandbox, is represented by the shim's.
func (s *Service) Pids(_ context.Context, r *tasks.PidsRequest) (*tasks.PidsResponse, error) {
	t, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	return &tasks.PidsResponse{Processes: t.processes()}, nil
}

// Connect implements the Task service.
func (s *Service) Connect(_ context.Context, r *tasks.ConnectRequest) (*tasks.ConnectResponse, error) {
	var pid uint32
	if t, err := s.find(r.ID, ""); err == nil {
		pid = t.pid()
	}
	return &tasks.ConnectResponse{ShimPid: self(), TaskPid: pid}, nil
}

// Shutdown implements the Task service: the shim ends unless it has tasks.
func (s *Service) Shutdown(context.Context, *tasks.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tasks) == 0 {
		s.Quit()
	}
	return &emptypb.Empty{}, nil
}

// CloseIO implements the Task service: there is no input.
func (s *Service) CloseIO(_ context.Context, r *tasks.CloseIORequest) (*emptypb.Empty, error) {
	_, err := s.find(r.ID, r.ExecID)
	return &emptypb.Empty{}, err
}

// self is the shim's process.
func self() uint32 { return uint32(os.Getpid()) }
