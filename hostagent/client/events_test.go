package client_test

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// forgetful is a hostagent that has one guest, loses what a stream wants to go
// on behind, and has no guest any more.
type forgetful struct {
	hostagentv1.HostagentService

	mu      sync.Mutex
	streams int
}

func refusal(c fault.Code) error {
	st, err := status.New(c.Status(), string(c)).WithDetails(&hostagentv1.Failure{Code: string(c), Message: string(c)})
	if err != nil {
		return err
	}
	return st.Err()
}

func (f *forgetful) Get(_ context.Context, r *hostagentv1.NameRequest) (*hostagentv1.Guest, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.streams > 1 || r.Name != "web" {
		return nil, refusal(fault.NoGuest)
	}
	return &hostagentv1.Guest{Name: "web", State: "ready"}, nil
}

func (f *forgetful) Events(_ context.Context, r *hostagentv1.EventsRequest, s hostagentv1.Hostagent_EventsServer) error {
	f.mu.Lock()
	f.streams++
	first := f.streams == 1
	f.mu.Unlock()
	switch {
	case first:
		if err := s.Send(&hostagentv1.Event{Epoch: "e", Sequence: 7}); err != nil {
			return err
		}
		return refusal(fault.EventsGone)
	case r.Epoch != "":
		return refusal(fault.EventsGone)
	}
	return refusal(fault.NoGuest)
}

// Who follows one guest learns that it was removed, even when all events about
// it are gone.
func TestFollowedGuestIsGone(t *testing.T) {
	t.Parallel()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	hostagentv1.RegisterHostagentService(server, new(forgetful))
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(t.Context(), l) }()
	t.Cleanup(func() { server.Close() })
	c, err := client.Dial(t.Context(), l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.Events(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if e, err := s.Next(); err != nil || !e.Deleted || e.Guest.Name != "web" {
		t.Errorf("%v %v", e, err)
	}
	if e, err := s.Next(); err == nil {
		t.Errorf("then %v", e)
	}
}
