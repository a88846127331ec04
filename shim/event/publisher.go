// Package event tells containerd what happens to tasks.
package event

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Topics of a task's events. Their messages are those of containerd's
// api/events.
const (
	Create = "/tasks/create"
	Start  = "/tasks/start"
	Exit   = "/tasks/exit"
	OOM    = "/tasks/oom"
	Delete = "/tasks/delete"
)

// Bounds.
const (
	callTimeout = 5 * time.Second
	pause       = 100 * time.Millisecond
	maxPause    = 2 * time.Second
	maxQueue    = 1024 // a task has five events: beyond that containerd is away for good
)

// Publisher forwards events in their order to containerd. While containerd is
// away they wait for it, so that a client of the next one misses none.
type Publisher struct {
	address, namespace string
	log                *slog.Logger

	mu    sync.Mutex
	queue []*types.Envelope
	more  chan struct{} // has an item when the queue has one
	idle  *sync.Cond    // the queue became empty
}

// New makes a publisher for the ttrpc socket that containerd names to its shims.
// Run sends.
func New(address, namespace string, log *slog.Logger) *Publisher {
	p := &Publisher{address: strings.TrimPrefix(address, "unix://"), namespace: namespace, log: log, more: make(chan struct{}, 1)}
	p.idle = sync.NewCond(&p.mu)
	return p
}

// Publish takes an event over. It does not wait.
func (p *Publisher) Publish(topic string, event proto.Message) {
	value, err := proto.Marshal(event)
	if err != nil {
		p.log.Error("publish event", "topic", topic, "error", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) >= maxQueue {
		p.log.Error("publish event: too many wait for containerd", "topic", topic)
		return
	}
	p.queue = append(p.queue, &types.Envelope{
		Timestamp: timestamppb.Now(), Namespace: p.namespace, Topic: topic,
		// Without protobuf's usual prefix: containerd compares the whole text.
		Event: &anypb.Any{TypeUrl: string(event.ProtoReflect().Descriptor().FullName()), Value: value},
	})
	select {
	case p.more <- struct{}{}:
	default:
	}
}

// Run sends events until the context ends.
func (p *Publisher) Run(ctx context.Context) {
	var conn *ttrpc.Client
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for wait := pause; ; {
		p.mu.Lock()
		var next *types.Envelope
		if len(p.queue) > 0 {
			next = p.queue[0]
		} else {
			p.idle.Broadcast()
		}
		p.mu.Unlock()
		if next == nil {
			select {
			case <-p.more:
				continue
			case <-ctx.Done():
				return
			}
		}
		idle := conn != nil
		err := p.forward(ctx, &conn, next)
		if err == nil {
			p.mu.Lock()
			p.queue = p.queue[1:]
			p.mu.Unlock()
			wait = pause
			continue
		}
		if conn != nil {
			conn.Close()
			conn = nil
		}
		if idle { // since then containerd may have been started anew
			continue
		}
		if wait == pause {
			p.log.Warn("publish event: containerd does not take it yet", "topic", next.Topic, "error", err)
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, maxPause)
		case <-ctx.Done():
			return
		}
	}
}

// forward sends one event, over a new connection if there is none.
func (p *Publisher) forward(ctx context.Context, conn **ttrpc.Client, e *types.Envelope) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if *conn == nil {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", p.address)
		if err != nil {
			return fmt.Errorf("connect to containerd: %w", err)
		}
		*conn = ttrpc.NewClient(c)
	}
	_, err := events.NewTTRPCEventsClient(*conn).Forward(ctx, &events.ForwardRequest{Envelope: e})
	return err
}

// Flush waits until all events are sent, for a while. Run must be running.
func (p *Publisher) Flush(patience time.Duration) {
	over := false
	stop := time.AfterFunc(patience, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		over = true
		p.idle.Broadcast()
	})
	defer stop.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 && !over {
		p.idle.Wait()
	}
}
