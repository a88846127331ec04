package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	tasks "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/shim/event"
	"github.com/secexec/secexec/shim/task"
)

// gcPercent keeps a shim's heap small: there is one for each pod.
const gcPercent = 40

// flushTime is how long the last events may take at the shim's end.
const flushTime = 3 * time.Second

// serve is the shim itself: it serves tasks on descriptor 3 until containerd
// shuts it down. It works in the folder of the first of its tasks.
func serve(o *options) error {
	debug.SetGCPercent(gcPercent)
	log := logger(o)
	l, err := openLedger()
	if err != nil {
		return err
	}
	file := os.NewFile(3, "socket")
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("serve tasks: %w", err)
	}
	file.Close()
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return fmt.Errorf("serve tasks: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	publisher := event.New(os.Getenv("TTRPC_ADDRESS"), o.namespace, log)
	published := make(chan struct{})
	publishing, endPublishing := context.WithCancel(context.Background())
	go func() {
		defer close(published)
		publisher.Run(publishing)
	}()
	quit := make(chan struct{}, 1)
	service := &task.Service{
		Namespace: o.namespace, Host: &task.Host{Address: address()}, Ledger: l, Events: publisher, Log: log, Collect: spawnCollector,
		Quit: func() {
			select {
			case quit <- struct{}{}:
			default:
			}
		},
	}
	service.Run(ctx)
	tasks.RegisterTTRPCTaskService(server, service)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	select {
	case <-quit:
	case <-ctx.Done():
		log.Warn("shim was told to end")
	case err = <-served:
		err = fmt.Errorf("serve tasks: %w", err)
	}
	if addr := listener.Addr().String(); addr != "" {
		os.Remove(addr)
	}
	publisher.Flush(flushTime)
	endPublishing()
	<-published
	answering, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if shut := server.Shutdown(answering); shut != nil && !errors.Is(shut, context.DeadlineExceeded) {
		err = errors.Join(err, shut)
	}
	return err
}

// logger writes to the FIFO that containerd reads shims' logs from, in the
// current folder.
func logger(o *options) *slog.Logger {
	level := slog.LevelInfo
	if o.debug {
		level = slog.LevelDebug
	}
	var w io.Writer = os.Stderr
	if fd, err := unix.Open("log", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
		w = logPipe(fd)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})).With("runtime", runtimeName, "namespace", o.namespace)
}

// logPipe is a FIFO whose reader comes and goes with containerd. It is open for
// reading too, so that nobody gets SIGPIPE; what is too much while containerd is
// away is lost.
type logPipe int

// Write implements io.Writer. It never waits.
func (p logPipe) Write(b []byte) (int, error) {
	_, _ = unix.Write(int(p), b)
	return len(b), nil
}
