package task

import (
	"context"
	"fmt"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	tasks "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/secexec/secexec/shim/usage"
)

// Stats implements the Task service: what the guest's QEMU takes from the node,
// or a sandbox's shim.
func (s *Service) Stats(ctx context.Context, r *tasks.StatsRequest) (*tasks.StatsResponse, error) {
	t, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	m, err := t.metrics(ctx)
	if err != nil {
		return nil, status(fmt.Errorf("read stats of task %s: %w", r.ID, err))
	}
	value, err := proto.Marshal(m)
	if err != nil {
		return nil, status(fmt.Errorf("read stats of task %s: %w", r.ID, err))
	}
	return &tasks.StatsResponse{Stats: &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: value}}, nil
}

func (t *task) metrics(ctx context.Context) (*stats.Metrics, error) {
	if t.guest == "" {
		return usage.Self()
	}
	used, err := t.s.Host.usage(ctx, t.guest)
	if err != nil {
		return nil, err
	}
	if len(used.Guests) != 1 {
		return nil, notFound("guest %s", t.guest)
	}
	t.mu.Lock()
	unit := t.unit
	t.mu.Unlock()
	return usage.Guest(used.Guests[0], unit)
}
