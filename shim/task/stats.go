package task

import (
	"context"

	tasks "github.com/containerd/containerd/api/runtime/task/v2"
)

// Stats implements the Task service.
func (s *Service) Stats(_ context.Context, r *tasks.StatsRequest) (*tasks.StatsResponse, error) {
	return nil, notImplemented("stats of task %s", r.ID)
}
