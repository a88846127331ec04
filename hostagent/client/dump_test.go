package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// dumps is a hostagent with dumps alone.
type dumps func(ctx context.Context, r *hostagentv1.DumpRequest, send func(*hostagentv1.DumpChunk) error) error

func (d dumps) Dump(ctx context.Context, r *hostagentv1.DumpRequest, s hostagentv1.Dump_DumpServer) error {
	return d(ctx, r, s.Send)
}

// connect serves dumps and connects to it.
func connect(t testing.TB, d dumps) *Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	hostagentv1.RegisterDumpService(server, d)
	go server.Serve(context.Background(), l)
	t.Cleanup(func() { server.Close() })
	c, err := Dial(t.Context(), filepath.Join(dir, "s"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// broken is a disk that fills up.
type broken struct{ room int }

func (b *broken) Write(p []byte) (int, error) {
	if b.room -= len(p); b.room < 0 {
		return 0, errors.New("no space left on device")
	}
	return len(p), nil
}

func TestDump(t *testing.T) {
	t.Parallel()
	piece := bytes.Repeat([]byte("x"), 1<<20)
	three := func(send func(*hostagentv1.DumpChunk) error) error {
		for range 3 {
			if err := send(&hostagentv1.DumpChunk{Data: piece, Total: 3 << 20}); err != nil {
				return err
			}
		}
		return nil
	}
	t.Run("complete", func(t *testing.T) {
		t.Parallel()
		c := connect(t, func(_ context.Context, r *hostagentv1.DumpRequest, send func(*hostagentv1.DumpChunk) error) error {
			if r.Name != "web" {
				t.Errorf("dump of %q", r.Name)
			}
			return errors.Join(three(send), send(&hostagentv1.DumpChunk{Complete: true}))
		})
		var out bytes.Buffer
		var done, total uint64
		err := c.Dump(t.Context(), "web", &out, func(d, all uint64) { done, total = d, all })
		if err != nil || out.Len() != 3<<20 || done != 3<<20 || total != 3<<20 {
			t.Errorf("%d bytes, progress %d of %d, %v", out.Len(), done, total, err)
		}
	})
	t.Run("ends without its last message", func(t *testing.T) {
		t.Parallel()
		c := connect(t, func(_ context.Context, _ *hostagentv1.DumpRequest, send func(*hostagentv1.DumpChunk) error) error {
			return three(send)
		})
		if err := c.Dump(t.Context(), "web", io.Discard, func(uint64, uint64) {}); !errors.Is(err, ErrIncomplete) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("fails in the middle", func(t *testing.T) {
		t.Parallel()
		c := connect(t, func(_ context.Context, _ *hostagentv1.DumpRequest, send func(*hostagentv1.DumpChunk) error) error {
			st, err := status.New(codes.FailedPrecondition, "QEMU gave up").WithDetails(&hostagentv1.Failure{Code: "H232", Message: "QEMU gave up"})
			return errors.Join(three(send), err, st.Err())
		})
		err := c.Dump(t.Context(), "web", io.Discard, func(uint64, uint64) {})
		if err == nil || errors.Is(err, ErrIncomplete) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		c := connect(t, func(context.Context, *hostagentv1.DumpRequest, func(*hostagentv1.DumpChunk) error) error {
			st, _ := status.New(codes.FailedPrecondition, "no").WithDetails(&hostagentv1.Failure{Code: "H232", Message: "no"})
			return st.Err()
		})
		if err := c.Dump(t.Context(), "web", io.Discard, func(uint64, uint64) {}); err == nil || fault.As(err).Code != fault.NoDump {
			t.Errorf("error %v", err)
		}
	})
	// A full disk here ends the dump there, so that the guest goes on.
	t.Run("the disk is full", func(t *testing.T) {
		t.Parallel()
		ended := make(chan error, 1)
		c := connect(t, func(ctx context.Context, _ *hostagentv1.DumpRequest, send func(*hostagentv1.DumpChunk) error) error {
			for {
				if err := send(&hostagentv1.DumpChunk{Data: piece}); err != nil || ctx.Err() != nil {
					ended <- errors.Join(err, ctx.Err())
					return err
				}
			}
		})
		err := c.Dump(t.Context(), "web", &broken{room: 5 << 20}, func(uint64, uint64) {})
		if err == nil || err.Error() != "write dump: no space left on device" {
			t.Errorf("error %v", err)
		}
		c.Close() // as the command does at once
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Error("the dump goes on")
		}
	})
}

func BenchmarkDump(b *testing.B) {
	piece := make([]byte, 1<<20)
	c := connect(b, func(_ context.Context, _ *hostagentv1.DumpRequest, send func(*hostagentv1.DumpChunk) error) error {
		for range b.N {
			if err := send(&hostagentv1.DumpChunk{Data: piece}); err != nil {
				return err
			}
		}
		return send(&hostagentv1.DumpChunk{Complete: true})
	})
	b.SetBytes(1 << 20)
	if err := c.Dump(b.Context(), "web", io.Discard, func(uint64, uint64) {}); err != nil {
		b.Fatal(err)
	}
}
