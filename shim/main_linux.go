// Command containerd-shim-secexec-v2 is containerd's runtime io.containerd.secexec.v2:
// its tasks are sealed guests of the node's hostagent.
//
// containerd starts it with start for each task, which leaves a process behind
// that serves the task (and those of the same pod), and with delete when that
// process is gone. Settings come from containerd's environment: SECEXEC_SOCKET is
// hostagent's socket, SECEXEC_SHIM_STATE the folder of records.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	tasks "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/shim/ledger"
	"github.com/secexec/secexec/shim/task"
)

// version is stamped at build time.
var version = "devel"

// runtimeName is what users of containerd call it.
const runtimeName = "io.containerd.secexec.v2"

// options are what containerd says to each of its shims.
type options struct {
	namespace, id, address, bundle string
	debug, version, info           bool
	action                         string
}

func main() {
	o, err := parse(os.Args[1:])
	if err == nil {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", runtimeName, err) // containerd shows it to its client
		os.Exit(1)
	}
}

func parse(args []string) (*options, error) {
	o := new(options)
	f := flag.NewFlagSet("containerd-shim-secexec-v2", flag.ContinueOnError)
	f.StringVar(&o.namespace, "namespace", "", "containerd's namespace of the task")
	f.StringVar(&o.id, "id", "", "the task's id")
	f.StringVar(&o.address, "address", "", "containerd's grpc socket")
	f.StringVar(&o.bundle, "bundle", "", "the task's folder, for delete")
	f.String("publish-binary", "", "not used: events go to $TTRPC_ADDRESS")
	f.BoolVar(&o.debug, "debug", false, "log more")
	for _, name := range []string{"v", "version"} {
		f.BoolVar(&o.version, name, false, "print the version and exit")
	}
	f.BoolVar(&o.info, "info", false, "print what the runtime is, for containerd")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.action = f.Arg(0)
	return o, nil
}

func run(o *options) error {
	switch {
	case o.version:
		fmt.Println("containerd-shim-secexec-v2", version)
		return nil
	case o.info:
		return write(&types.RuntimeInfo{Name: runtimeName, Version: &types.RuntimeVersion{Version: version}})
	case o.action == "collect":
		return collect(o)
	case o.namespace == "" || o.id == "":
		return fmt.Errorf("no -namespace or no -id: containerd calls this program, as runtime %s", runtimeName)
	}
	switch o.action {
	case "start":
		return start(o)
	case "delete":
		return remove(o)
	case "":
		return serve(o)
	}
	return fmt.Errorf("unknown action %.100q", o.action)
}

// write answers containerd.
func write(m proto.Message) error {
	text, err := proto.Marshal(m)
	if err == nil {
		_, err = os.Stdout.Write(text)
	}
	return err
}

// address is hostagent's.
func address() string { return cmp.Or(os.Getenv("SECEXEC_SOCKET"), client.DefaultSocket) }

func openLedger() (*ledger.Ledger, error) {
	return ledger.Open(cmp.Or(os.Getenv("SECEXEC_SHIM_STATE"), ledger.Dir))
}

// remove is the delete command.
func remove(o *options) error {
	l, err := openLedger()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)) // containerd logs it as warnings
	pid, exit, err := task.Delete(context.Background(), address(), l, o.namespace, o.id, log, spawnCollector)
	if err != nil {
		return err
	}
	dropSocket()
	return write(&tasks.DeleteResponse{Pid: pid, ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At)})
}

// collect deletes guests that no task has any more.
func collect(o *options) error {
	l, err := openLedger()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return task.Collect(ctx, &task.Host{Address: address()}, l, logger(o))
}
