package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/secexec/secexec/proto/guestagent/v1"
	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/workload"
	"github.com/secexec/secexec/sealed"
)

// Bounds of calls.
const (
	maxSecret   = 64 << 10         // bytes of a secret
	logPiece    = 32 << 10         // bytes of entries in an answer
	logPatience = 30 * time.Second // for the next entry
)

// service answers the owner. What it does to the guest are functions, so that
// all of it is tested without one.
type service struct {
	plan   *sealed.Channel
	memory *memory
	agent  func() Status
	uptime func() uint64
	write  func(s sealed.SecretFile, content []byte) error
	tell   func(workload.Message) // guestinit; nil: it becomes the root's init
	spawn  func(start *guestagentv1.ExecStart) (program, error)
}

var _ guestagentv1.GuestagentService = (*service)(nil)

// Status implements the service.
func (s *service) Status(context.Context, *guestagentv1.StatusRequest) (*guestagentv1.StatusResponse, error) {
	out := s.memory.status()
	out.Exec, out.UptimeMs = s.plan.Exec, s.uptime()
	a := s.agent()
	out.Ready, out.Says, out.Healthy = a.State == readiness.Ready, a.Text, a.Healthy
	for _, stage := range a.Stages {
		out.Stages = append(out.Stages, &guestagentv1.Stage{Name: stage.Name, Millis: stage.Millis})
	}
	return out, nil
}

// DeliverSecret implements the service.
func (s *service) DeliverSecret(_ context.Context, r *guestagentv1.DeliverSecretRequest) (*guestagentv1.DeliverSecretResponse, error) {
	defer clear(r.Content)
	i := slices.IndexFunc(s.plan.Secrets, func(f sealed.SecretFile) bool { return f.Name == r.Name })
	switch {
	case i < 0:
		return nil, status.Errorf(codes.NotFound, "the sealed plan names no secret %.40q", r.Name)
	case len(r.Content) > maxSecret:
		return nil, status.Errorf(codes.InvalidArgument, "secret %s has %d bytes, at most %d", r.Name, len(r.Content), maxSecret)
	}
	if err := s.write(s.plan.Secrets[i], r.Content); err != nil {
		return nil, status.Errorf(codes.Internal, "write secret %s: %v", r.Name, err)
	}
	missing := s.memory.deliver(r.Name)
	if len(missing) == 0 && s.tell != nil {
		s.tell(workload.Secrets{})
	}
	return &guestagentv1.DeliverSecretResponse{Missing: missing}, nil
}

// Restart implements the service.
func (s *service) Restart(context.Context, *guestagentv1.RestartRequest) (*guestagentv1.RestartResponse, error) {
	if s.tell == nil {
		return nil, status.Error(codes.FailedPrecondition, "the guest has an init of its own: restart its services by that")
	}
	s.tell(workload.Restart{})
	return &guestagentv1.RestartResponse{}, nil
}

// Logs implements the service.
func (s *service) Logs(ctx context.Context, r *guestagentv1.LogsRequest) (*guestagentv1.LogsResponse, error) {
	if s.tell == nil {
		return nil, status.Error(codes.FailedPrecondition, "the guest has an init of its own, which has the logs")
	}
	patience := time.NewTimer(logPatience)
	defer patience.Stop()
	for {
		entries, changed := s.memory.after(r.After, logPiece)
		if len(entries) > 0 || !r.Wait {
			return &guestagentv1.LogsResponse{Entries: entries}, nil
		}
		select {
		case <-changed:
		case <-patience.C:
			return &guestagentv1.LogsResponse{}, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Exec implements the service.
func (s *service) Exec(ctx context.Context, stream guestagentv1.Guestagent_ExecServer) error {
	if !s.plan.Exec {
		return status.Error(codes.PermissionDenied, "the sealed plan does not allow exec")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.Start == nil || len(first.Start.Args) == 0 {
		return status.Error(codes.InvalidArgument, "no program to run")
	}
	if s.agent().State == readiness.Starting { // PID 1 is in the initramfs, or waits for secrets
		return status.Error(codes.FailedPrecondition, "the guest's root does not run yet")
	}
	p, err := s.spawn(first.Start)
	switch {
	case errors.Is(err, errTooMany):
		return status.Error(codes.ResourceExhausted, err.Error())
	case err != nil:
		return status.Errorf(codes.NotFound, "run %.80q: %v", first.Start.Args[0], err)
	}
	return converse(ctx, p, stream)
}
