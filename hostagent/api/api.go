// Package api serves hostagent's ttrpc service: it checks who calls, bounds and
// translates requests, and gives errors their codes.
package api

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/node"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/proto/readiness"
)

// Bounds of requests.
const (
	maxName     = 63
	maxPath     = 4096
	maxStop     = time.Hour
	maxMessage  = 4000 // bytes of an error's message
	killTimeout = 15 * time.Second
)

// Service implements hostagentv1.HostagentService.
type Service struct {
	Fleet *guest.Fleet
	Node  func(ctx context.Context) *hostagentv1.NodeInfoResponse // facts of the node
	// Examine reports on the node line by line.
	Examine func(ctx context.Context) []node.Finding
	Roots   Roots
	Quotas
	Calls *Calls // watches them; nil: nobody does
}

var _ hostagentv1.HostagentService = (*Service)(nil)

// Create implements the service.
func (s *Service) Create(ctx context.Context, r *hostagentv1.CreateRequest) (*hostagentv1.Guest, error) {
	if len(r.Name) > maxName || len(r.Bundle) > maxPath || r.MemoryMib > 1<<30 || r.Cpus > 1<<16 || devicesTooLarge(r) {
		return nil, toStatus(fault.New(fault.BadRequest, "a field is too large"))
	}
	restart, err := guest.RestartPolicy(r.Restart.GetPolicy(), r.Restart.GetLimit(), r.Restart.GetWindowS())
	if err != nil {
		return nil, toStatus(err)
	}
	request := guest.Request{
		Name: r.Name, Bundle: r.Bundle, MemoryMiB: int(r.MemoryMib), CPUs: int(r.Cpus), ID: r.RequestId, Loadparm: r.Loadparm,
		Restart: restart, Autostart: r.Autostart, Order: r.Order, Disks: disksOf(r.Disks), Networks: networksOf(r.Networks), Resources: resourcesOf(r.Resources),
	}
	done, err := s.forCaller(CallerOf(ctx), r, &request)
	if err != nil {
		return nil, toStatus(err)
	}
	defer done()
	g, err := s.Fleet.Create(ctx, request)
	if err != nil {
		return nil, toStatus(err)
	}
	return s.show(g.Snapshot()), nil
}

// Start implements the service.
func (s *Service) Start(ctx context.Context, r *hostagentv1.StartRequest) (*hostagentv1.Guest, error) {
	return s.with(ctx, r.Name, func(g *guest.Guest) error { return g.Start(ctx, r.RequestId) })
}

// Stop implements the service.
func (s *Service) Stop(ctx context.Context, r *hostagentv1.StopRequest) (*hostagentv1.Guest, error) {
	timeout := min(time.Duration(r.TimeoutMs)*time.Millisecond, maxStop)
	if timeout == 0 {
		timeout = guest.DefaultStop
	}
	return s.with(ctx, r.Name, func(g *guest.Guest) error { return g.Stop(ctx, timeout) })
}

// Kill implements the service.
func (s *Service) Kill(ctx context.Context, r *hostagentv1.NameRequest) (*hostagentv1.Guest, error) {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	return s.with(ctx, r.Name, func(g *guest.Guest) error { return g.Kill(ctx) })
}

// Delete implements the service.
func (s *Service) Delete(ctx context.Context, r *hostagentv1.NameRequest) (*hostagentv1.DeleteResponse, error) {
	g, err := s.find(ctx, r.Name)
	if err == nil {
		err = s.Fleet.Remove(ctx, g)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	return &hostagentv1.DeleteResponse{}, nil
}

// Get implements the service.
func (s *Service) Get(ctx context.Context, r *hostagentv1.NameRequest) (*hostagentv1.Guest, error) {
	return s.with(ctx, r.Name, func(*guest.Guest) error { return nil })
}

// List implements the service.
func (s *Service) List(ctx context.Context, _ *hostagentv1.ListRequest) (*hostagentv1.ListResponse, error) {
	out := &hostagentv1.ListResponse{}
	for _, g := range s.visible(ctx) {
		out.Guests = append(out.Guests, s.show(g.Snapshot()))
	}
	return out, nil
}

// Console implements the service.
func (s *Service) Console(ctx context.Context, r *hostagentv1.ConsoleRequest) (*hostagentv1.ConsoleResponse, error) {
	g, err := s.find(ctx, r.Name)
	if err != nil {
		return nil, toStatus(err)
	}
	data, next, size, err := guest.ReadConsole(g.ConsolePath(), r.Offset, int(min(r.Limit, 1<<30)))
	if err != nil {
		return nil, toStatus(fault.New(fault.Storage, "%w", err))
	}
	return &hostagentv1.ConsoleResponse{Data: data, Next: next, Size: size}, nil
}

// Challenge implements the service.
func (s *Service) Challenge(ctx context.Context, r *hostagentv1.ChallengeRequest) (*hostagentv1.ChallengeResponse, error) {
	if len(r.Nonce) != readiness.NonceSize {
		return nil, toStatus(fault.New(fault.BadRequest, "nonce of %d bytes, wants %d", len(r.Nonce), readiness.NonceSize))
	}
	g, err := s.find(ctx, r.Name)
	if err != nil {
		return nil, toStatus(err)
	}
	report, err := g.Challenge(ctx, [readiness.NonceSize]byte(r.Nonce))
	if err != nil {
		return nil, toStatus(err)
	}
	return &hostagentv1.ChallengeResponse{Report: report}, nil
}

// NodeInfo implements the service.
func (s *Service) NodeInfo(ctx context.Context, _ *hostagentv1.NodeInfoRequest) (*hostagentv1.NodeInfoResponse, error) {
	info := s.Node(ctx)
	info.Guests = uint32(len(s.visible(ctx)))
	return info, nil
}

// with does something to a guest and shows it.
func (s *Service) with(ctx context.Context, name string, do func(*guest.Guest) error) (*hostagentv1.Guest, error) {
	g, err := s.find(ctx, name)
	if err == nil {
		err = do(g)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	return s.show(g.Snapshot()), nil
}

func (s *Service) show(g store.Guest) *hostagentv1.Guest {
	p := s.Fleet.Platform
	out := &hostagentv1.Guest{
		Name: g.Name, Uuid: g.UUID, State: g.State, Platform: p.Name(), Protected: p.Protected(),
		CreatedUnixMs: g.Created.UnixMilli(), MemoryMib: uint32(g.MemoryMiB), Cpus: uint32(g.CPUs), ImageId: g.ImageID, Identity: g.Identity,
		OwnerUid: g.Owner,
	}
	out.Folder, out.Loadparm = s.Fleet.Store.Dir(g.Name), g.Loadparm
	if g.Boot != bundle.BootDisk {
		out.Image = g.Image
	}
	out.Disks, out.Networks = showDisks(g.Disks), showNetworks(g.Networks)
	out.Resources = showResources(g.Resources)
	if !g.Started.IsZero() {
		out.StartedUnixMs = g.Started.UnixMilli()
	}
	if g.Move != nil {
		out.Move = place(&g)
	}
	if g.Process != nil {
		out.Pid, out.Unit = int32(g.Process.PID), g.Process.Unit
	}
	for _, stage := range g.Stages {
		out.Stages = append(out.Stages, &hostagentv1.Stage{Name: stage.Name, Millis: uint64(max(0, stage.Millis)), By: stage.By})
	}
	if f := g.Failure; f != nil {
		out.Failure = &hostagentv1.Failure{Code: f.Code, Message: f.Message, Remedy: f.Remedy}
	}
	out.Autostart, out.Order, out.Restarts = g.Autostart, g.Order, uint32(len(g.Restarts))
	if r := g.Restart; r != nil {
		out.Restart = &hostagentv1.Restart{Policy: r.Policy, Limit: r.Limit, WindowS: r.WindowS}
	}
	out.Unhealthy = g.Unhealthy
	if g.Exit != nil {
		status := uint32(*g.Exit)
		out.ExitStatus = &status
	}
	if !g.RestartAt.IsZero() {
		out.RestartUnixMs = g.RestartAt.UnixMilli()
	}
	return out
}

// toStatus gives an error its ttrpc status, with the code as a detail.
func toStatus(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	f := fault.As(err)
	message := strings.ToValidUTF8(f.Message[:min(len(f.Message), maxMessage)], "?")
	st := status.New(f.Code.Status(), message)
	detailed, e := st.WithDetails(&hostagentv1.Failure{Code: string(f.Code), Message: message, Remedy: f.Remedy})
	if e != nil {
		return st.Err()
	}
	return detailed.Err()
}

// NewServer returns a ttrpc server for the service. It serves behind a Gate.
func NewServer(s *Service) (*ttrpc.Server, error) {
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(s.Calls.unary))
	if err != nil {
		return nil, err
	}
	hostagentv1.RegisterHostagentService(server, watched{s, s.Calls})
	hostagentv1.RegisterStatsService(server, stats{s})
	hostagentv1.RegisterNodeService(server, nodeService{s.Examine})
	hostagentv1.RegisterDumpService(server, dumpService{s})
	hostagentv1.RegisterChannelService(server, channelService{s})
	hostagentv1.RegisterMoverService(server, NewMover(s))
	return server, nil
}
