package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/secexec/secexec/hostagent/api"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// paused is a platform whose guests never run: QEMU starts as it does for a
// guest, and stays before the first instruction, as with virsh start --paused.
// A hundred emulated guests that run would time the emulation.
type paused struct{}

func (paused) Name() string                       { return platform.NameEmulated }
func (paused) Protected() bool                    { return false }
func (paused) Check(context.Context) error        { return nil }
func (paused) HostKeyHashes() ([][32]byte, error) { return nil, platform.ErrHashesUnknown }
func (paused) Limits() (platform.Limits, error)   { return platform.Limits{}, nil }
func (paused) Configure(cfg *qemu.Config)         { cfg.Accel, cfg.CPU, cfg.Stopped = "tcg", "max", true }
func (paused) Boot(context.Context, platform.BootSpec) error {
	return nil
}

// daemon is hostagent, put together as its own main does, on the platform paused.
func daemon(dir string) error {
	debug.SetGCPercent(guest.GCPercent)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	st, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		return err
	}
	defer st.Close()
	fleet, err := guest.NewFleet(ctx, guest.Options{
		Store: st, Launcher: launch.Direct{}, Platform: paused{}, Hub: guest.NewHub(), Log: slog.New(slog.DiscardHandler),
		QEMU: "qemu-system-s390x", Runtime: filepath.Join(dir, "run"), ReadyTimeout: 24 * time.Hour,
	})
	if err != nil {
		return err
	}
	defer fleet.Close()
	l, err := listenFresh(filepath.Join(dir, "sock"))
	if err != nil {
		return err
	}
	node := func(context.Context) *hostagentv1.NodeInfoResponse { return &hostagentv1.NodeInfoResponse{} }
	server, err := api.NewServer(&api.Service{Fleet: fleet, Node: node})
	if err != nil {
		return err
	}
	err = api.NewGate(server, slog.New(slog.DiscardHandler)).Serve(ctx, l, api.Admission{Admins: -1, Tenants: -1}.Unix)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// populate makes guests as Create leaves them, with an image and a disk of
// nothing.
func populate(dir string, n int) error {
	st, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		return err
	}
	defer st.Close()
	for i := range n {
		rec := &store.Guest{
			Name: guestName(i), UUID: fmt.Sprintf("6d1f3d90-8c86-4a2f-9d3c-%012x", i), State: string(guest.Created),
			Image: "boot.seimg", Disks: []store.Disk{{File: "root.img", Serial: "root"}}, MemoryMiB: 64, CPUs: 1, Created: time.Now(),
		}
		gdir := st.Dir(rec.Name)
		err := errors.Join(os.Mkdir(gdir, 0o700), blank(filepath.Join(gdir, "boot.seimg"), 1<<20), blank(filepath.Join(gdir, "root.img"), 1<<20), st.Save(rec))
		if err != nil {
			return err
		}
	}
	return nil
}

func guestName(i int) string { return fmt.Sprintf("g%04d", i) }

func blank(path string, size int64) error {
	return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size))
}
