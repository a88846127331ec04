// Command hostagent runs sealed guests on a provider's node: it launches QEMU
// with SE images, supervises the guests and serves ttrpc to secexec. Guests
// outlive it: the next hostagent takes them over.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/health"
	"github.com/secexec/secexec/hostagent/journal"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/metrics"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/settings"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/hostagent/witness"
)

// version is stamped at build time.
var version = "devel"

// newFleet lets the tests put another platform and launcher in.
var newFleet = guest.NewFleet

func main() {
	if len(os.Args) > 1 && os.Args[1] == "exec" {
		fmt.Fprintln(os.Stderr, "hostagent:", launch.Exec())
		os.Exit(1)
	}
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

// parse reads the settings file and, over it, the command line.
func parse(args []string) (*settings.Settings, error) {
	s := settings.Default()
	file := fileFlag(args)
	loaded, err := settings.Load(cmp.Or(file, settings.File))
	switch {
	case err == nil:
		s = loaded
	case file != "" || !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	f := flag.NewFlagSet("hostagent", flag.ContinueOnError)
	f.String("config", settings.File, "settings `file`; what the command line says goes before it")
	f.StringVar(&s.State, "state", s.State, "`folder` of guests and their disks")
	f.StringVar(&s.Runtime, "runtime", s.Runtime, "`folder` of sockets, best on tmpfs")
	f.StringVar(&s.Socket, "socket", s.Socket, "`path` of the socket to serve")
	f.StringVar(&s.Group, "group", s.Group, "`name` of the group whose members may call, beside root")
	f.StringVar(&s.TenantsGroup, "tenants-group", s.TenantsGroup, "`name` of the group whose members may call about guests of their own")
	f.Var((*list)(&s.BundleRoots), "bundle-roots", "`folders`, with commas between, beneath which administrators' bundles lie; none: anywhere")
	f.Var((*list)(&s.DiskRoots), "disk-roots", "`folders` beneath which disks lie that administrators attach; none: anywhere")
	f.Var((*list)(&s.TenantRoots), "tenant-roots", "`folders` beneath which tenants' bundles lie")
	f.IntVar(&s.TenantGuests, "tenant-guests", s.TenantGuests, "guests that a tenant may have; -1: any `number`")
	f.IntVar(&s.TenantMemoryMiB, "tenant-memory", s.TenantMemoryMiB, "`MiB` of memory of a tenant's guests together; -1: any")
	f.IntVar(&s.TenantCPUs, "tenant-cpus", s.TenantCPUs, "CPUs of a tenant's guests together; -1: any `number`")
	f.IntVar(&s.TenantDiskMiB, "tenant-disk", s.TenantDiskMiB, "`MiB` of a tenant's images and disks together; -1: any")
	f.StringVar(&s.Listen, "listen", s.Listen, "`HOST:PORT` to serve clients with a certificate on, by TLS; empty: none")
	f.StringVar(&s.TLSCertificate, "tls-certificate", s.TLSCertificate, "`file` with hostagent's own certificate for --listen")
	f.StringVar(&s.TLSKey, "tls-key", s.TLSKey, "`file` with its key")
	f.StringVar(&s.TLSClientCA, "tls-client-ca", s.TLSClientCA, "`file` with the authorities that sign clients' certificates")
	f.StringVar(&s.QEMU, "qemu", s.QEMU, "QEMU `program`")
	f.StringVar(&s.Platform, "platform", s.Platform, "`se`, or emulated, which protects nothing")
	f.StringVar(&s.EmulatedHost, "emulated-host", s.EmulatedHost, "`folder` of an emulated host, made by secexec emulate init")
	f.BoolVar(&s.ForceEmulated, "force-emulated", s.ForceEmulated, "emulate even on a node that has Secure Execution")
	f.StringVar(&s.Launcher, "launcher", s.Launcher, "`how` guests' processes are started: auto, systemd or direct")
	f.DurationVar(&s.ReadyTimeout, "ready-timeout", s.ReadyTimeout, "how long a guest may take to become ready")
	f.Float64Var(&s.MemoryRatio, "memory-ratio", s.MemoryRatio, "guests' memory as a multiple of the node's less the reserve, 0: not counted")
	f.IntVar(&s.MemoryReserve, "memory-reserve-mib", s.MemoryReserve, "`MiB` of the node's memory that guests do not get")
	f.StringVar(&s.Metrics, "metrics", s.Metrics, "where Prometheus scrapes: unix:/PATH or 127.0.0.1:PORT; empty: nowhere")
	f.BoolVar(&s.MetricsRemote, "metrics-remote", s.MetricsRemote, "let --metrics be reached from elsewhere; nobody is asked who they are")
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
	for _, path := range []*string{&s.State, &s.Runtime, &s.Socket, &s.EmulatedHost} { // as typed, from here
		if *path != "" {
			if *path, err = filepath.Abs(*path); err != nil {
				return nil, err
			}
		}
	}
	return &s, s.Check()
}

// fileFlag finds --config, whose file's content is the other flags' defaults.
func fileFlag(args []string) string {
	for i, arg := range args {
		name, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case arg == "--" || !strings.HasPrefix(arg, "-"), name != "config":
		case joined:
			return value
		case i+1 < len(args):
			return args[i+1]
		}
	}
	return ""
}

func run(ctx context.Context, c *settings.Settings) error {
	debug.SetGCPercent(guest.GCPercent)
	set := metrics.New(version)
	log := slog.New(journal.Observe(journal.New(os.Stderr, slog.LevelInfo), set.Event))
	watchdog, _ := daemon.SdWatchdogEnabled(false)
	well := health.New(log, func(state string) { _, _ = daemon.SdNotify(false, state) })
	well.Every = watchdog
	p, err := platform.New(platform.Choice{Name: c.Platform, EmulatedHost: c.EmulatedHost, Force: c.ForceEmulated})
	if err != nil {
		return err
	}
	if !p.Protected() {
		log.Warn(platform.EmulatedWarning)
	}
	well.Suffix = "; platform " + p.Name()
	well.Checks[health.Node] = p.Check
	well.Set(health.Node, p.Check(ctx)) // such a node still serves; why not stands in the log
	admission, err := newAdmission(c)
	if err != nil {
		return err
	}
	st, err := store.Open(c.State)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := os.MkdirAll(c.Runtime, 0o755); err != nil {
		return fmt.Errorf("make runtime folder: %w", err)
	}
	passed, scraped, err := passedSockets()
	if err != nil {
		return err
	}
	listener, err := listen(passed, c.Socket, admission.Admins, admission.Tenants >= 0)
	if err != nil {
		return err
	}
	defer listener.Close()
	memory, err := platform.NodeMemory(nil)
	if err != nil {
		return err
	}
	report := &report{settings: c}
	launcher, done, err := launch.Choose(ctx, c.Launcher, log)
	if err != nil {
		return err
	}
	defer done()
	hub := guest.NewHub()
	follower := witness.New(hub, log)
	follower.Stage, follower.Changed = set.Stage, well.Changed
	fleet, err := newFleet(qemu.WithObserver(ctx, set), guest.Options{
		Store: st, Launcher: launcher, Platform: p, Hub: hub, Log: log,
		QEMU: c.QEMU, DiskRoots: c.DiskRoots, Runtime: c.Runtime, ReadyTimeout: c.ReadyTimeout,
		Capacity:  guest.Capacity{MemoryMiB: memory - c.MemoryReserve, Ratio: c.MemoryRatio, CPUs: runtime.NumCPU()},
		CheckQEMU: qemu.CheckSecure, Vsock: qemu.Vsock{},
	})
	if err != nil {
		return err
	}
	defer fleet.Close()
	service, err := newService(c, fleet, p, report, set, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A node that can't run guests still serves; why not stands in the log.
	examined := make(chan struct{})
	go func() {
		defer close(examined)
		logReport(ctx, log, report.fresh(ctx))
	}()
	defer func() { <-examined }()
	well.States = func() map[string]int { return states(fleet) }
	well.Pings = []func(context.Context) error{answers(fleet), follower.Ping}
	stopWatching, err := watch(ctx, c, scraped, admission.Admins, fleet, follower, well, set)
	if err != nil {
		return err
	}
	defer stopWatching()
	served, stop, err := serve(ctx, c, service, listener, admission, log)
	if err != nil {
		return err
	}
	log.Info("hostagent serves", journal.Serving, "socket", c.Socket, "platform", p.Name(), "guests", len(fleet.List()))
	select {
	case err = <-served:
	case <-ctx.Done():
		log.Info("hostagent ends, guests go on", journal.Ending)
	}
	return errors.Join(err, stop())
}
