package platform

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/secexec/secexec/hostagent/qemu"
)

// Files of the ultravisor's interface, relative to the root.
const (
	uvDir       = "sys/firmware/uv"
	protVirtKey = uvDir + "/prot_virt_host"
	uvKeysAll   = uvDir + "/keys/all"
	kvmDevice   = "dev/kvm"
)

// SE is IBM Secure Execution on this s390x machine.
type SE struct {
	// Root is where sys and dev are found; nil is the machine's own root.
	Root fs.FS
}

var _ Platform = SE{}

// Name implements [Platform].
func (SE) Name() string { return NameSE }

// Protected implements [Platform].
func (SE) Protected() bool { return true }

func (p SE) root() fs.FS {
	if p.Root == nil {
		return os.DirFS("/")
	}
	return p.Root
}

// Check implements [Platform]. It reads what the kernel made of its prot_virt=
// option, not the option: with it set the ultravisor can still have failed.
func (p SE) Check(context.Context) error {
	if err := p.enabled(); err != nil {
		return err
	}
	if _, err := fs.Stat(p.root(), kvmDevice); err != nil {
		return fmt.Errorf("%w: no /dev/kvm: load the kernel module kvm", ErrNoSecureExecution)
	}
	return nil
}

// enabled reports why the kernel is not a host of secure guests.
func (p SE) enabled() error {
	if _, err := fs.Stat(p.root(), uvDir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: no /%s: wants an IBM Z or LinuxONE machine with the Secure Execution feature and Linux 5.7 or later", ErrNoSecureExecution, uvDir)
	}
	text, err := readFile(p.root(), protVirtKey)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoSecureExecution, err)
	}
	switch strings.TrimSpace(string(text)) {
	case "1":
		return nil
	case "0":
		return fmt.Errorf("%w: /%s is 0: add prot_virt=1 to the kernel command line and boot again; if it is there, the kernel log says why the ultravisor was not set up", ErrNoSecureExecution, protVirtKey)
	}
	return fmt.Errorf("%w: /%s holds %q, neither 0 nor 1", ErrNoSecureExecution, protVirtKey, text)
}

// HostKeyHashes implements [Platform]. Kernels before 6.10, and machines whose
// firmware has no such query, do not tell.
func (p SE) HostKeyHashes() ([][32]byte, error) {
	text, err := readFile(p.root(), uvKeysAll)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no /%s", ErrHashesUnknown, uvKeysAll)
	}
	if err != nil {
		return nil, err
	}
	hashes, err := parseKeyHashes(text)
	if err != nil {
		return nil, fmt.Errorf("/%s: %w", uvKeysAll, err)
	}
	if len(hashes) == 0 {
		return nil, fmt.Errorf("%w: /%s names no key", ErrHashesUnknown, uvKeysAll)
	}
	return hashes, nil
}

// Configure implements [Platform]. The guest starts stopped, so that hostagent
// watches from the first instruction on.
func (SE) Configure(cfg *qemu.Config) {
	cfg.Accel, cfg.CPU = "kvm", "host"
	cfg.Confidential = true
	cfg.MemoryFile, cfg.GDBSocket = "", ""
	cfg.Stopped = true
}

// Boot implements [Platform]: firmware does the rest when the guest's boot
// loader asks for it.
func (SE) Boot(ctx context.Context, spec BootSpec) error {
	if err := spec.Monitor.Cont(ctx); err != nil {
		return fmt.Errorf("start guest: %w", err)
	}
	return nil
}

// readFile reads a small file, such as those of sysfs.
func readFile(root fs.FS, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSmallFile+1))
	if err == nil && len(text) > maxSmallFile {
		err = fmt.Errorf("read /%s: more than %d bytes", name, maxSmallFile)
	}
	return text, err
}

// maxSmallFile bounds files that are read whole.
const maxSmallFile = 64 << 10
