// Command hostagent runs sealed guests on a provider's node: it launches QEMU
// with SE images, supervises the guests and serves ttrpc to secexec. Guests
// outlive it: the next hostagent takes them over.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"github.com/secexec/secexec/hostagent/api"
	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/store"
)

// version is stamped at build time.
var version = "devel"

func main() {
	// What a signal can't end in time, the next one ends at once.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop)
	if len(os.Args) > 1 && os.Args[1] == "ultravisor" {
		if err := platform.StandIn(ctx, os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "hostagent:", err)
			os.Exit(1)
		}
		return
	}
	cfg, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(ctx, cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hostagent:", err)
		os.Exit(1)
	}
}

// config is the command line.
type config struct {
	state, runtime, socket, qemu, group string
	choice                              platform.Choice
	readyTimeout                        time.Duration
}

func parse(args []string) (*config, error) {
	c := &config{}
	f := flag.NewFlagSet("hostagent", flag.ContinueOnError)
	f.StringVar(&c.state, "state", "/var/lib/secexec", "`folder` of guests and their disks")
	f.StringVar(&c.runtime, "runtime", "/run/secexec", "`folder` of sockets, best on tmpfs")
	f.StringVar(&c.socket, "socket", client.DefaultSocket, "`path` of the socket to serve")
	f.StringVar(&c.group, "group", "", "`name` of the group whose members may call, beside root")
	f.StringVar(&c.qemu, "qemu", "qemu-system-s390x", "QEMU `program`")
	f.StringVar(&c.choice.Name, "platform", platform.NameSE, "`se`, or emulated, which protects nothing")
	f.StringVar(&c.choice.EmulatedHost, "emulated-host", "", "`folder` of an emulated host, made by secexec emulate init")
	f.BoolVar(&c.choice.Force, "force-emulated", false, "emulate even on a node that has Secure Execution")
	f.DurationVar(&c.readyTimeout, "ready-timeout", 2*time.Minute, "how long a guest may take to become ready")
	show := f.Bool("version", false, "print the version and exit")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if *show {
		fmt.Println("hostagent", version)
		return nil, flag.ErrHelp
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q: see hostagent --help", f.Arg(0))
	}
	return c, nil
}

func run(ctx context.Context, c *config) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	p, err := platform.New(c.choice)
	if err != nil {
		return err
	}
	if !p.Protected() {
		log.Warn(platform.EmulatedWarning)
	}
	// A node that can't run guests still serves: secexec node says why.
	if err := p.Check(ctx); err != nil {
		log.Error("node can't run guests", "error", err)
	}
	gid := -1
	if c.group != "" {
		g, err := user.LookupGroup(c.group)
		if err != nil {
			return fmt.Errorf("look up group: %w", err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return fmt.Errorf("look up group: %w", err)
		}
	}
	st, err := store.Open(c.state)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := os.MkdirAll(c.runtime, 0o755); err != nil {
		return fmt.Errorf("make runtime folder: %w", err)
	}
	listener, err := listen(c.socket, gid)
	if err != nil {
		return err
	}
	defer listener.Close()
	fleet, err := guest.NewFleet(ctx, guest.Options{
		Store: st, Launcher: launch.Direct{}, Platform: p, Hub: guest.NewHub(), Log: log,
		QEMU: c.qemu, Runtime: c.runtime, ReadyTimeout: c.readyTimeout,
	})
	if err != nil {
		return err
	}
	defer fleet.Close()
	server, err := api.NewServer(&api.Service{Fleet: fleet, Node: nodeFacts(p, c.qemu)}, api.Admission{Group: gid, Log: log})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	log.Info("hostagent serves", "socket", c.socket, "platform", p.Name(), "guests", len(fleet.List()))
	stopNotify := notify(fmt.Sprintf("%d guests, platform %s", len(fleet.List()), p.Name()))
	defer stopNotify()
	select {
	case err = <-served:
	case <-ctx.Done():
		log.Info("hostagent ends, guests go on")
	}
	return errors.Join(err, server.Close())
}
