package owner

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/initrd"
	"github.com/secexec/secexec/kernel"
	"github.com/secexec/secexec/rootdisk/oci"
	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/seimage"
)

// Plan says what to build.
type Plan struct {
	Name       string // the bundle's name, and the guest's unless the operator chooses another
	Kernel     kernel.Source
	Strip      bool // cut the signatures of the kernel's modules off; see initrd.Plan
	Root       FileSystem
	Overlay    *Overlay // over the root; nil: none
	Volumes    []Volume
	SwapSize   int64        // bytes of swap with a key made at each boot; 0: none
	GuestDir   string       // folder with the s390x binaries guestinit and guestagent
	Cmdline    string       // kernel command line, "" for DefaultCmdline
	Init       string       // to hand over to, without a workload
	StopSignal uint8        // asks it to power off
	Workload   *Workload    // to run instead of an init, nil: none
	Ready      sealed.Ready // when the guest counts as ready
	Channel    Channel
	Devices    Devices
	MemoryMiB  int
	AllowDump  bool                // the provider may make dumps, which only CommKeyFile opens
	Hardening  sealed.Hardening    // sysctls in any order
	Hosts      []*hostkey.Document // verified by the caller, a key slot for each

	Bundle       string // folder to make
	Secrets      string // folder to make, mode 0700
	BootableDisk string // file to make besides, "" for none: all of the bundle in one disk that boots by itself; a name ending in .qcow2 gives that format
	Update       bool   // replace all of them if they exist, with what did not change

	SkipTLS bool              // of registries that sources are in
	Step    func(name string) // told before each step, may be nil
	Warn    func(text string) // told what the owner should know, may be nil
}

// FileSystem is what an encrypted volume holds.
type FileSystem struct {
	Source    string // folder, tar archive, disk image, container image with its transport; see rootdisk.Options
	Partition int    // of a disk image; 0: the only one that can be a root
	Size      int64  // bytes, 0: content and head-room
	FSType    string // of a file system that is made: ext4, which "" is too, or erofs
	ReadOnly  bool
	Grow      bool        // at boot, to the end of a disk that was made larger; ext4 and xfs only
	Mode      sealed.Mode // how it is protected

	folders []string // that are to be in it
}

// Volume is a data volume with a key of its own. Without a source it is an
// empty file system.
type Volume struct {
	Name  string // a-z, 0-9 and '-', at most 16: its file, its keys and its serial number are called so
	Mount string // folder in the root
	Fresh bool   // its key is made at each boot, in the guest, and so is its empty file system
	FileSystem
}

func (p *Plan) step(name string) {
	if p.Step != nil {
		p.Step(name)
	}
}

func (p *Plan) warn(text string) {
	if p.Warn != nil {
		p.Warn(text)
	}
}

// DefaultStopSignal asks systemd to power off: SIGRTMIN+4 (systemd(1)).
const DefaultStopSignal = 38

// DefaultCmdline returns the kernel command line that an SE guest with this
// many virtio devices needs.
//
//   - console=ttysclp0 is the SCLP console; quiet keeps what the host may read
//     of it to errors and the workload's own words.
//   - panic=0 stops the CPUs, which QEMU reports as a guest panic and ends; a
//     number would let a panicking guest boot again and again.
//   - cryptomgr.notests spares the kernel the known-answer tests of every cipher
//     that it registers, two fifths of a start (docs/hardening.md). With fips=1 the
//     kernel tests all the same.
//   - swiotlb is the bounce buffer through which all virtio data passes, counted
//     in slabs of 2 KiB (kernel-parameters.txt): 32 MiB and 16 MiB per device.
func DefaultCmdline(devices int) string {
	const slab = 2 << 10
	return fmt.Sprintf("console=ttysclp0 quiet panic=0 cryptomgr.notests swiotlb=%d", (32+16*devices)<<20/slab)
}

// devices is how many virtio devices the guest has: its disks, readiness port
// and network.
func (p *Plan) devices() int {
	disks := 1 + len(p.Volumes)
	if p.SwapSize != 0 {
		disks++
	}
	if p.Overlay != nil && p.Overlay.Volume {
		disks++
	}
	if p.BootableDisk != "" {
		disks = 1
	}
	return disks + 2
}

// Check refuses a plan that could not be built, before any of the work, and
// returns what is known of the result: its kernel command line.
func (p *Plan) Check(ctx context.Context) (*Result, error) {
	found, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	return &Result{Cmdline: found.cmdline, Workload: found.workload, Init: p.Init}, found.kernel.Close()
}

// prepared is a plan whose parts were found. Its owner closes the kernel.
type prepared struct {
	kernel  *kernel.Kernel
	tree    *initrd.Tree
	cmdline string

	workload *sealed.Workload // but for what the root knows; nil: none
}

// open checks the plan and finds its kernel.
func (p *Plan) open(ctx context.Context) (_ *prepared, err error) {
	if err := bundle.CheckName(p.Name); err != nil {
		return nil, err
	}
	if err := checkSource("root file system", p.Root.Source); err != nil {
		return nil, err
	}
	if err := p.Root.checkMode("root"); err != nil {
		return nil, err
	}
	if err := p.checkOverlay(); err != nil {
		return nil, err
	}
	work, err := p.resolveWorkload(ctx)
	if err != nil {
		return nil, err
	}
	if work == nil {
		if err := sealed.CheckInit(p.Init); err != nil {
			return nil, err
		}
	}
	if err := p.checkVolumes(); err != nil {
		return nil, err
	}
	if err := p.Channel.check(); err != nil {
		return nil, err
	}
	if err := p.Devices.check(work); err != nil {
		return nil, err
	}
	found := &prepared{cmdline: p.Cmdline, workload: work}
	if found.cmdline == "" {
		found.cmdline = DefaultCmdline(p.devices())
	}
	if err := checkCmdline(found.cmdline); err != nil {
		return nil, err
	}
	if found.kernel, err = kernel.Open(ctx, p.Kernel); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			found.kernel.Close()
		}
	}()
	if err := found.kernel.CheckGuest(); err != nil {
		return nil, err
	}
	if p.SwapSize != 0 && found.kernel.Lacks("CONFIG_SWAP") {
		return nil, fmt.Errorf("plan swap: kernel %s is built without CONFIG_SWAP: take another, or leave swap out", found.kernel.Release)
	}
	if err := p.checkHardening(found); err != nil {
		return nil, err
	}
	if verdict, why := found.kernel.Guest(); verdict == kernel.Unknown {
		p.warn("whether this kernel can be a Secure Execution guest is not known: " + why)
	}
	if found.tree, err = initrd.OpenTree(found.kernel.Modules, found.kernel.Release); err != nil {
		return nil, fmt.Errorf("open kernel modules: %w", err)
	}
	return found, seimage.CheckKernel(found.kernel.Image, found.kernel.Image.Size(), []byte(found.cmdline))
}

// maxVolumeName keeps serial numbers and file names short.
const maxVolumeName = 16

func (p *Plan) checkVolumes() error {
	disks, names, mounts := 1+len(p.Volumes), []string{RootSerial, "boot", "disk"}, []string(nil)
	if p.SwapSize != 0 {
		disks, names = disks+1, append(names, SwapSerial)
	}
	if p.Overlay != nil && p.Overlay.Volume {
		disks, names = disks+1, append(names, OverlaySerial)
	}
	if disks > bundle.MaxDisks {
		return fmt.Errorf("plan volumes: %d disks with the root's, its layer's and the swap's, at most %d", disks, bundle.MaxDisks)
	}
	if err := p.checkFresh(); err != nil {
		return err
	}
	for _, v := range p.Volumes {
		switch {
		case bundle.CheckName(v.Name) != nil || len(v.Name) > maxVolumeName:
			return fmt.Errorf("plan volume %q: its name is not 1 to %d characters of a-z, 0-9 and '-'", v.Name, maxVolumeName)
		case slices.Contains(names, v.Name):
			return fmt.Errorf("plan volume %s: the name is taken", v.Name)
		case v.Source == "" && v.Size == 0:
			return fmt.Errorf("plan volume %s: it has neither a source nor a size", v.Name)
		case slices.Contains(mounts, v.Mount):
			return fmt.Errorf("plan volume %s: another volume is mounted at %s", v.Name, v.Mount)
		}
		names, mounts = append(names, v.Name), append(mounts, v.Mount)
		if err := sealed.CheckMount(v.Mount); err != nil {
			return fmt.Errorf("plan volume %s: %w", v.Name, err)
		}
		if err := v.checkMode("volume " + v.Name); err != nil {
			return err
		}
		if v.Source == "" {
			continue
		}
		if err := checkSource("source of volume "+v.Name, v.Source); err != nil {
			return err
		}
	}
	return nil
}

// checkSource wants a source that is here, or in a registry, to be there.
func checkSource(what, source string) error {
	path := source
	if transport, rest, ok := oci.Transport(source); ok {
		if transport == "docker" {
			return nil // the registry tells
		}
		path, _, _ = strings.Cut(rest, ":")
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("open %s: %w", what, err)
	}
	return nil
}
