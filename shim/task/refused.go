package task

import (
	"context"

	tasks "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/protobuf/types/known/emptypb"
)

// What a host can't do to a sealed guest, in one sentence each.

// Exec implements the Task service.
func (s *Service) Exec(_ context.Context, r *tasks.ExecProcessRequest) (*emptypb.Empty, error) {
	return nil, notImplemented("run a process in task %s: a sealed guest runs none for its host; its owner may by secexec connect", r.ID)
}

// Pause implements the Task service.
func (s *Service) Pause(_ context.Context, r *tasks.PauseRequest) (*emptypb.Empty, error) {
	return nil, notImplemented("pause task %s: a sealed guest can't be paused", r.ID)
}

// Resume implements the Task service.
func (s *Service) Resume(_ context.Context, r *tasks.ResumeRequest) (*emptypb.Empty, error) {
	return nil, notImplemented("resume task %s: a sealed guest can't be paused", r.ID)
}

// Checkpoint implements the Task service.
func (s *Service) Checkpoint(_ context.Context, r *tasks.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, notImplemented("checkpoint task %s: a sealed guest's memory can't be saved", r.ID)
}

// Update implements the Task service.
func (s *Service) Update(_ context.Context, r *tasks.UpdateTaskRequest) (*emptypb.Empty, error) {
	return nil, notImplemented("update task %s: a sealed guest keeps the memory and CPUs that it started with", r.ID)
}

// ResizePty implements the Task service.
func (s *Service) ResizePty(_ context.Context, r *tasks.ResizePtyRequest) (*emptypb.Empty, error) {
	return nil, notImplemented("resize the terminal of task %s: a sealed guest has none", r.ID)
}
