package event

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// engine is a containerd that takes events.
type engine struct {
	mu     sync.Mutex
	topics []string
	ids    []string
	refuse int // so many first
}

func (e *engine) Forward(_ context.Context, r *events.ForwardRequest) (*emptypb.Empty, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refuse > 0 {
		e.refuse--
		return nil, errors.New("not now")
	}
	var start apievents.TaskStart
	if r.Envelope.Namespace != "ns" || r.Envelope.Event.TypeUrl != "containerd.events.TaskStart" || proto.Unmarshal(r.Envelope.Event.Value, &start) != nil {
		e.topics = append(e.topics, "bad: "+r.String())
		return &emptypb.Empty{}, nil
	}
	e.topics, e.ids = append(e.topics, r.Envelope.Topic), append(e.ids, start.ContainerID)
	return &emptypb.Empty{}, nil
}

func (e *engine) serve(t *testing.T, path string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	events.RegisterTTRPCEventsService(server, e)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(context.Background(), l)
	}()
	return func() {
		server.Close()
		<-done
	}
}

// Events wait for a containerd that is away or refuses, and come in their order.
func TestPublisher(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	p := New("unix://"+path, "ns", slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx)
	}()
	var want []string
	publish := func(id string) {
		want = append(want, id)
		p.Publish(Start, &apievents.TaskStart{ContainerID: id})
	}
	publish("a")
	publish("b")
	p.Flush(10 * time.Millisecond) // nobody listens
	e := &engine{refuse: 2}
	stop := e.serve(t, path)
	p.Flush(time.Minute)
	stop() // containerd is started anew
	publish("c")
	stop = e.serve(t, path)
	defer stop()
	publish("d")
	p.Flush(time.Minute)
	e.mu.Lock()
	if !slices.Equal(e.ids, want) || !slices.Equal(e.topics, []string{Start, Start, Start, Start}) {
		t.Errorf("got %v %v", e.topics, e.ids)
	}
	e.mu.Unlock()
	cancel()
	<-done
	p.Flush(time.Minute) // has nothing to wait for
}

func TestPublisherIsBounded(t *testing.T) {
	t.Parallel()
	p := New("/nowhere", "ns", slog.New(slog.DiscardHandler))
	for range maxQueue + 1 {
		p.Publish(Start, &apievents.TaskStart{ContainerID: "a"})
	}
	if len(p.queue) != maxQueue {
		t.Errorf("%d events wait", len(p.queue))
	}
}
