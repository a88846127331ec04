package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/owner/buildfile"
)

// buildFlags are the flags that say what to build: each goes before a field of
// the build file.
type buildFlags struct {
	path      string // of the build file
	parmfile  string
	tlsVerify bool
	given     buildfile.File
	fields    []fieldFlag
}

// fieldFlag is a flag with the field that it sets.
type fieldFlag struct {
	flag  string
	field string // its name in the file
	use   func(f *buildfile.File)
}

func (b *buildFlags) add(cmd *cobra.Command) {
	f, g := cmd.Flags(), &b.given
	f.StringVarP(&b.path, "file", "f", "", "build file (default: ./"+buildfile.Name+" where it is)")

	f.StringVar(&g.Name, "name", "", "the workload's `NAME` (default: the bundle folder's)")
	b.field("name", "name", func(f *buildfile.File) { f.Name = g.Name })
	f.StringVar((*string)(&g.Root.Source), "root", "", "`SOURCE` of the root: folder, tar, disk image, docker:// oci: oci-archive: docker-archive:")
	b.field("root", "root.source", func(f *buildfile.File) { f.Root.Source = g.Root.Source })
	f.IntVar(&g.Root.Partition, "partition", 0, "partition `N` of a disk image (default: the only one that can be a root)")
	b.field("partition", "root.partition", func(f *buildfile.File) { f.Root.Partition = g.Root.Partition })
	f.Var((*byteSize)(&g.Root.Size), "root-size", "`SIZE` of the root file system, such as 2G (default: content and head-room)")
	b.field("root-size", "root.size", func(f *buildfile.File) { f.Root.Size = g.Root.Size })
	f.BoolVar(&g.Root.ReadOnly, "read-only", false, "map and mount the root read-only")
	b.field("read-only", "root.read_only", func(f *buildfile.File) { f.Root.ReadOnly = g.Root.ReadOnly })
	f.StringVar(&g.Root.Mode, "root-mode", "crypt", "`MODE` of the root: crypt, crypt-integrity or verity")
	b.field("root-mode", "root.mode", func(f *buildfile.File) { f.Root.Mode = g.Root.Mode })
	f.StringVar(&g.Root.FileSystem, "root-file-system", "ext4", "`TYPE` of the root file system that is made: ext4, or erofs, which is read-only")
	b.field("root-file-system", "root.file_system", func(f *buildfile.File) { f.Root.FileSystem = g.Root.FileSystem })
	f.StringVar(&g.Root.Overlay, "overlay", "none", "writable `LAYER` over a read-only root: none, memory or volume")
	b.field("overlay", "root.overlay", func(f *buildfile.File) { f.Root.Overlay = g.Root.Overlay })
	f.Var((*byteSize)(&g.Root.OverlaySize), "overlay-size", "`SIZE` of the layer, such as 512M (default in memory: half of the guest's memory)")
	b.field("overlay-size", "root.overlay_size", func(f *buildfile.File) { f.Root.OverlaySize = g.Root.OverlaySize })
	f.StringVar(&g.Root.OverlayMode, "overlay-mode", "", "`MODE` of the layer's volume: crypt or crypt-integrity (default: crypt-integrity over mode verity)")
	b.field("overlay-mode", "root.overlay_mode", func(f *buildfile.File) { f.Root.OverlayMode = g.Root.OverlayMode })
	f.StringVar(&g.Root.OverlayKey, "overlay-key", "sealed", "`KEY` of the layer's volume: sealed in the image, or fresh at each boot, which starts with an empty layer")
	b.field("overlay-key", "root.overlay_key", func(f *buildfile.File) { f.Root.OverlayKey = g.Root.OverlayKey })
	f.BoolVar(&g.Root.Grow, "grow", false, "at boot grow the root's ext4 or xfs to the end of the disk, where that was made larger")
	b.field("grow", "root.grow", func(f *buildfile.File) { f.Root.Grow = g.Root.Grow })
	f.Var((*volumeList)(&g.Volumes), "volume", "`VOLUME` with data: name=NAME,mount=DIR, then size=SIZE or source=SOURCE, mode=MODE, file_system=TYPE, ro, grow, fresh (repeatable)")
	b.field("volume", "volumes", func(f *buildfile.File) { f.Volumes = g.Volumes })
	f.Var((*byteSize)(&g.Swap.Size), "swap-size", "`SIZE` of swap with a key made at each boot, such as 1G (default: no swap)")
	b.field("swap-size", "swap.size", func(f *buildfile.File) { f.Swap.Size = g.Swap.Size })
	f.VarP((*pathList)(&g.Kernel), "kernel", "i", "s390x Linux: a raw image, an installed system's folder, or packages (repeatable)")
	b.field("kernel", "kernel", func(f *buildfile.File) { f.Kernel = g.Kernel })
	f.Var((*pathList)(&g.Modules), "modules", "folder with the kernel's lib/modules, or packages (repeatable; default: what --kernel brings)")
	b.field("modules", "modules", func(f *buildfile.File) { f.Modules = g.Modules })
	f.StringVar(&g.KernelRelease, "kernel-release", "", "`RELEASE`, as uname -r prints it, of one of several kernels")
	b.field("kernel-release", "kernel_release", func(f *buildfile.File) { f.KernelRelease = g.KernelRelease })
	f.StringVar(&g.Signatures, "module-signatures", "keep", "`keep|strip` the signatures of kernel modules, which cost time at each start")
	b.field("module-signatures", "module_signatures", func(f *buildfile.File) { f.Signatures = g.Signatures })
	f.StringVarP(&b.parmfile, "parmfile", "p", "", "file with the kernel command line (default: what an SE guest needs)")
	f.StringVar(&g.Cmdline, "cmdline", "", "`TEXT` of the kernel command line")
	b.field("cmdline", "cmdline", func(f *buildfile.File) { f.Cmdline = g.Cmdline })
	f.StringVar(&g.Init, "init", "/sbin/init", "`PROGRAM` in the root to hand over to")
	b.field("init", "init", func(f *buildfile.File) { f.Init = g.Init })
	f.IntVar(&g.StopSignal, "stop-signal", owner.DefaultStopSignal, "signal `N` asks it to power off (systemd: SIGRTMIN+4); a workload's default: the image's, or 15")
	b.field("stop-signal", "stop_signal", func(f *buildfile.File) { f.StopSignal = g.StopSignal })
	f.StringVar(&g.Ready, "ready", "handover", "`handover|notify`: ready when the workload runs, or when it says READY=1 (sd_notify)")
	b.field("ready", "ready", func(f *buildfile.File) { f.Ready = g.Ready })
	b.addChannel(cmd)
	f.BoolVar(&g.Devices.SCSI, "scsi", false, "have the drivers of disks on virtio-scsi, which cost time at each start (a bootable disk has them)")
	b.field("scsi", "devices.scsi", func(f *buildfile.File) { f.Devices.SCSI = g.Devices.SCSI })
	f.BoolVar(&g.Devices.NoNetwork, "no-network", false, "have no driver of a network device, in a root with an init of its own (of a workload: --network none)")
	b.field("no-network", "devices.no_network", func(f *buildfile.File) { f.Devices.NoNetwork = g.Devices.NoNetwork })
	f.IntVar(&g.MemoryMiB, "memory", 1024, "guest memory, `MIB`")
	b.field("memory", "memory_mib", func(f *buildfile.File) { f.MemoryMiB = g.MemoryMiB })
	f.BoolVar(&g.EnableDump, "enable-dump", false, "let the provider make encrypted dumps of the guest, which only cck.key opens")
	b.field("enable-dump", "enable_dump", func(f *buildfile.File) { f.EnableDump = g.EnableDump })
	b.addHardening(f)
	f.StringVar((*string)(&g.GuestDir), "guest-dir", "", "`DIR` with the s390x guestinit and guestagent (default: installed ones)")
	b.field("guest-dir", "guest_dir", func(f *buildfile.File) { f.GuestDir = g.GuestDir })
	f.StringVarP((*string)(&g.Output), "output", "o", "", "`DIR` to make for the bundle")
	b.field("output", "output", func(f *buildfile.File) { f.Output = g.Output })
	f.StringVar((*string)(&g.Secrets), "secrets", "", "`DIR` to make for the owner's keys")
	b.field("secrets", "secrets", func(f *buildfile.File) { f.Secrets = g.Secrets })

	f.StringVar((*string)(&g.BootableDisk), "bootable-disk", "", "disk to make that boots by itself; in qcow2 where its name ends so")
	b.field("bootable-disk", "bootable_disk", func(f *buildfile.File) { f.BootableDisk = g.BootableDisk })
	f.BoolVar(&b.tlsVerify, "tls-verify", true, "ask the registry of a container image for a valid certificate")

	f.VarP((*pathList)(&g.Hosts.Documents), "host-key-document", "k", "host key document of a host that may run the image (repeatable)")
	b.field("host-key-document", "hosts.documents", func(f *buildfile.File) { f.Hosts.Documents = g.Hosts.Documents })
	f.VarP((*pathList)(&g.Hosts.Certs), "cert", "C", "IBM Z signing certificate or an intermediate CA's (repeatable)")
	b.field("cert", "hosts.certs", func(f *buildfile.File) { f.Hosts.Certs = g.Hosts.Certs })
	f.Var((*pathList)(&g.Hosts.CRLs), "crl", "certificate revocation list of the chain (repeatable)")
	b.field("crl", "hosts.crls", func(f *buildfile.File) { f.Hosts.CRLs = g.Hosts.CRLs })
	f.BoolVar(&g.Hosts.Offline, "offline", false, "download no revocation lists: use only those of --crl")
	b.field("offline", "hosts.offline", func(f *buildfile.File) { f.Hosts.Offline = g.Hosts.Offline })
	f.StringVar((*string)(&g.Hosts.RootCA), "root-ca", "", "root CA certificate (default: the system's)")
	b.field("root-ca", "hosts.root_ca", func(f *buildfile.File) { f.Hosts.RootCA = g.Hosts.RootCA })
	f.BoolVar(&g.Hosts.NoVerify, "no-verify", false, "take host key documents without verification")
	b.field("no-verify", "hosts.no_verify", func(f *buildfile.File) { f.Hosts.NoVerify = g.Hosts.NoVerify })
	b.addWorkload(cmd)
	cmd.MarkFlagsMutuallyExclusive("parmfile", "cmdline")
}

func (b *buildFlags) field(flag, field string, use func(*buildfile.File)) {
	b.fields = append(b.fields, fieldFlag{flag, field, use})
}

// load reads the build file and puts flags and defaults over it.
func (b *buildFlags) load(cmd *cobra.Command) (*buildfile.File, error) {
	file, err := b.read()
	if err != nil {
		return nil, err
	}
	for _, f := range b.fields {
		if cmd.Flags().Changed(f.flag) {
			f.use(file)
		}
	}
	if b.parmfile != "" {
		text, err := readSmall(b.parmfile, 64<<10)
		if err != nil {
			return nil, fmt.Errorf("read kernel command line: %w", err)
		}
		file.Cmdline = strings.TrimSuffix(string(text), "\n")
	}
	work, err := supervised(file)
	if err != nil {
		return nil, err
	}
	if file.Init == "" && !work {
		file.Init = b.given.Init
	}
	if file.StopSignal == 0 && !work {
		file.StopSignal = b.given.StopSignal
	}
	if file.MemoryMiB == 0 {
		file.MemoryMiB = b.given.MemoryMiB
	}
	if file.Signatures == "" {
		file.Signatures = b.given.Signatures
	}
	if file.Signatures != "keep" && file.Signatures != "strip" {
		return nil, usageError{fmt.Errorf("--module-signatures %s is neither keep nor strip", file.Signatures)}
	}
	if file.Ready == "" {
		file.Ready = b.given.Ready
	}
	if file.Ready != "handover" && file.Ready != "notify" {
		return nil, usageError{fmt.Errorf("--ready %s is neither handover nor notify", file.Ready)}
	}
	if file.StopSignal < 1 && !work || file.StopSignal < 0 || file.StopSignal > 64 {
		return nil, usageError{fmt.Errorf("stop signal %d is not in 1..64", file.StopSignal)}
	}
	if err := b.complete(file); err != nil {
		return nil, err
	}
	if file.Name == "" {
		file.Name = filepath.Base(filepath.Clean(string(file.Output)))
	}
	return file, nil
}

// read reads the build file. Without --file it need not be there.
func (b *buildFlags) read() (*buildfile.File, error) {
	path := b.path
	if path == "" {
		path = buildfile.Name
	}
	text, err := readSmall(path, buildfile.MaxSize)
	if errors.Is(err, os.ErrNotExist) && b.path == "" {
		return new(buildfile.File), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read build file: %w", err)
	}
	return buildfile.Parse(path, text)
}

// complete names what neither file nor flags say.
func (b *buildFlags) complete(f *buildfile.File) error {
	var missing []string
	for _, need := range []struct {
		field string
		given bool
	}{
		{"root.source", f.Root.Source != "" || f.FromImage != ""}, {"kernel", len(f.Kernel) > 0},
		{"hosts.documents", len(f.Hosts.Documents) > 0}, {"output", f.Output != ""}, {"secrets", f.Secrets != ""},
	} {
		if need.given {
			continue
		}
		for _, flag := range b.fields {
			if flag.field == need.field {
				missing = append(missing, fmt.Sprintf("%s (--%s)", need.field, flag.flag))
			}
		}
	}
	if missing == nil {
		return nil
	}
	return usageError{fmt.Errorf("no %s: say it in %s or by flag", strings.Join(missing, ", "), buildfile.Name)}
}

// volumeList is a repeatable flag of data volumes, each in the form of
// podman's --mount.
type volumeList []buildfile.Volume

func (l *volumeList) String() string { return "" }
func (l *volumeList) Type() string   { return "volume" }
func (l *volumeList) Set(text string) error {
	var v buildfile.Volume
	for word := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "name":
			v.Name = value
		case "mount":
			v.Mount = value
		case "source":
			v.Source = buildfile.Source(value)
		case "partition":
			v.Partition, err = strconv.Atoi(value)
		case "size":
			v.Size, err = buildfile.ParseSize(value)
		case "mode":
			v.Mode = value
		case "file_system":
			v.FileSystem = value
		case "ro":
			if v.ReadOnly = true; value != "" {
				err = errors.New("ro takes no value")
			}
		case "grow":
			if v.Grow = true; value != "" {
				err = errors.New("grow takes no value")
			}
		case "fresh":
			if v.Key = "fresh"; value != "" {
				err = errors.New("fresh takes no value")
			}
		default:
			err = fmt.Errorf("%q is none of name=, mount=, size=, source=, partition=, mode=, file_system=, ro, grow and fresh", word)
		}
		if err != nil {
			return err
		}
	}
	*l = append(*l, v)
	return nil
}

// pathList is a repeatable flag of paths.
type pathList []buildfile.Path

func (l *pathList) String() string { return strings.Join(plainPaths(*l), " ") }
func (l *pathList) Type() string   { return "stringArray" }
func (l *pathList) Set(p string) error {
	*l = append(*l, buildfile.Path(p))
	return nil
}
