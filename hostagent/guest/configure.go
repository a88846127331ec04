package guest

import (
	"os"
	"path/filepath"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
)

// config is the guest's QEMU configuration, in fresh runtime files.
func (l *life) config(rec *store.Guest, sandbox bool) (*qemu.Config, error) {
	f := l.g.fleet
	run := f.runDir(rec.Name)
	if err := os.RemoveAll(run); err != nil {
		return nil, fault.New(fault.Storage, "clear runtime folder: %w", err)
	}
	if err := os.MkdirAll(run, 0o700); err != nil {
		return nil, fault.New(fault.Storage, "make runtime folder: %w", err)
	}
	dir := f.Store.Dir(rec.Name)
	cfg := &qemu.Config{
		Name: rec.Name, UUID: rec.UUID, Binary: f.QEMU, MemoryMiB: rec.MemoryMiB, CPUs: rec.CPUs,
		Kernel: filepath.Join(dir, rec.Image), ConsolePath: filepath.Join(dir, consoleFile),
		ReadinessSocket: filepath.Join(run, readinessSocket), QMPSocket: filepath.Join(run, qmpSocket),
		ChannelSocket: filepath.Join(run, channelSocket),
		RuntimeDir:    run, Sandbox: sandbox,
	}
	if rec.Boot == bundle.BootDisk {
		cfg.Kernel, cfg.BootDisk, cfg.Loadparm = "", true, rec.Loadparm
	}
	var err error
	if cfg.Disks, err = diskConfig(rec, dir); err != nil {
		return nil, err
	}
	if cfg.Nets, err = netConfig(rec); err != nil {
		return nil, err
	}
	cfg.OpenDisk = f.openDisk(rec)
	f.Platform.Configure(cfg)
	return cfg, nil
}
