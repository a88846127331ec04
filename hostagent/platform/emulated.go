package platform

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/secexec/secexec/hostagent/qemu"
)

// EmulatedWarning is what hostagent logs when it starts on the emulated platform
// and what clients show of such a node.
const EmulatedWarning = "Emulated platform: it protects nothing. This machine can read and change the guests it runs. For development, demonstrations and tests only."

// Files of an emulated host's folder.
const (
	hostKeyFile  = "host.key"
	hostCertFile = "host.crt"
)

// Files that the emulation puts into a guest's runtime folder.
const (
	memoryFile = "ram"
	gdbSocket  = "gdb.sock"
)

// Emulated runs SE guests on any Linux machine: QEMU translates the guest's
// instructions, and a short-lived process of hostagent's own program stands in
// for the ultravisor. It protects nothing.
type Emulated struct {
	// HostDir is the emulated host's folder: host.key, its private key, which
	// only the stand-in process reads, and host.crt, its host key document.
	HostDir string

	// Force lets the emulation run on a node that has Secure Execution.
	Force bool

	// Root is where sys is found; nil is the machine's own root.
	Root fs.FS

	// Program is the stand-in's program and first arguments; nil is hostagent's
	// own program in its mode "ultravisor".
	Program []string
}

var _ Platform = Emulated{}

// Name implements [Platform].
func (Emulated) Name() string { return NameEmulated }

// Protected implements [Platform].
func (Emulated) Protected() bool { return false }

// Check implements [Platform].
func (p Emulated) Check(context.Context) error {
	if !p.Force && (SE{Root: p.Root}).enabled() == nil {
		return fmt.Errorf("%w unless forced", ErrSENode)
	}
	if p.HostDir == "" {
		return errors.New("emulated platform: no folder of an emulated host: make one with `secexec emulate init DIR` and name it with --emulated-host")
	}
	if err := checkKeyFile(filepath.Join(p.HostDir, hostKeyFile)); err != nil {
		return fmt.Errorf("emulated platform: %w", err)
	}
	_, err := p.HostKeyHashes()
	return err
}

// checkKeyFile wants a regular file that its owner alone can read. It does not
// read it.
func checkKeyFile(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no host key: %w: make an emulated host with `secexec emulate init DIR`", err)
	case err != nil:
		return fmt.Errorf("check host key: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("check host key: %s is not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("check host key: %s has mode %04o: only its owner may read it (chmod 600)", path, info.Mode().Perm())
	}
	return nil
}

// Configure implements [Platform]. Guest memory lies in a file of the runtime
// folder until the stand-in has it mapped; QEMU waits for its debugger.
func (p Emulated) Configure(cfg *qemu.Config) {
	cfg.Accel, cfg.CPU = "tcg", "max"
	cfg.Confidential = false
	cfg.MemoryFile = filepath.Join(cfg.RuntimeDir, memoryFile)
	cfg.GDBSocket = filepath.Join(cfg.RuntimeDir, gdbSocket)
	cfg.Stopped = true
}
