// Package buildfile is secexec.yaml: one file that says what secexec build
// makes.
//
// [File] is the form; parser and JSON schema both read it, so that a field is
// there for both or for neither. Every field is obeyed: what secexec can't do
// yet is no field. The format's page is docs/formats/secexec-yaml.md.
package buildfile

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/secexec/secexec/rootdisk/oci"
)

// Name is what the file is called by default.
const Name = "secexec.yaml"

// Limits of the file.
const (
	MaxSize  = 64 << 10 // bytes
	MaxDepth = 8        // mappings and sequences within each other
)

// ErrInvalid is wrapped by every error about the file's text.
var ErrInvalid = errors.New("invalid build file")

// File is what secexec.yaml says. A zero field was not given. The tag `doc` is
// the field's sentence in the schema; `min` and `max` bound numbers, `enum`
// lists the words that a text may be, and with `one` a list of one item may be
// written without the list.
type File struct {
	Name          string    `yaml:"name,omitempty" doc:"The workload's name; default: the output folder's."`
	Kernel        []Path    `yaml:"kernel,omitempty" one:"true" doc:"s390x Linux: a raw image, an installed system's folder, or Debian or RPM packages."`
	Modules       []Path    `yaml:"modules,omitempty" one:"true" doc:"Folder with the kernel's lib/modules, or packages; default: what kernel brings."`
	KernelRelease string    `yaml:"kernel_release,omitempty" doc:"Release, as uname -r prints it, of one of several kernels."`
	Signatures    string    `yaml:"module_signatures,omitempty" enum:"keep strip" doc:"Whether kernel modules keep their signatures, which cost time at each start; default: keep."`
	Cmdline       string    `yaml:"cmdline,omitempty" doc:"Kernel command line; default: what an SE guest needs."`
	FromImage     Source    `yaml:"from_image,omitempty" doc:"Container image that is the root and whose program guestinit runs: a path, or with its transport."`
	Root          Root      `yaml:"root,omitempty" doc:"The encrypted root file system."`
	Volumes       []Volume  `yaml:"volumes,omitempty" doc:"Encrypted data volumes, each with a key of its own."`
	Swap          Swap      `yaml:"swap,omitempty" doc:"Encrypted swap space with a key made at each boot."`
	Init          string    `yaml:"init,omitempty" doc:"Program in the root to hand over to; default: /sbin/init."`
	StopSignal    int       `yaml:"stop_signal,omitempty" doc:"Signal that asks it to power off; default: 38, systemd's SIGRTMIN+4; of a workload: the image's, or 15." min:"1" max:"64"`
	Workload      Workload  `yaml:"workload,omitempty" doc:"The root's one program, which guestinit runs instead of handing over to an init."`
	Ready         string    `yaml:"ready,omitempty" enum:"handover notify" doc:"When the guest counts as ready: as soon as its workload runs, or when that says READY=1 (sd_notify); default: handover."`
	Channel       Channel   `yaml:"channel,omitempty" doc:"The owner's own channel into the guest."`
	Devices       Devices   `yaml:"devices,omitempty" doc:"Kinds of devices that the guest has drivers for; each costs time at every start."`
	MemoryMiB     int       `yaml:"memory_mib,omitempty" doc:"Guest memory in MiB; default: 1024." min:"64" max:"4194304"`
	EnableDump    bool      `yaml:"enable_dump,omitempty" doc:"Let the provider make dumps of the guest, encrypted so that only cck.key of the secrets opens them; default: false."`
	Hardening     Hardening `yaml:"hardening,omitempty" doc:"What the guest's kernel is closed to, beyond what it always is."`
	Hosts         Hosts     `yaml:"hosts,omitempty" doc:"Hosts that may run the image."`
	GuestDir      Path      `yaml:"guest_dir,omitempty" doc:"Folder with the s390x guestinit and guestagent; default: the installed ones."`
	Output        Path      `yaml:"output,omitempty" doc:"Bundle folder to make, for the provider."`
	Secrets       Path      `yaml:"secrets,omitempty" doc:"Folder to make for the owner's keys."`
	BootableDisk  Path      `yaml:"bootable_disk,omitempty" doc:"Disk to make that boots by itself, in qcow2 where its name ends so."`
}

// Root is the root file system.
type Root struct {
	Source    Source `yaml:"source,omitempty" doc:"Folder, tar archive, disk image, or container image with its transport."`
	Partition int    `yaml:"partition,omitempty" doc:"Number of the partition of a disk image; default: the only one that can be a root." min:"1" max:"128"`
	Size      Size   `yaml:"size,omitempty" doc:"Size of the file system, such as 2G; default: content and head-room."`
	ReadOnly  bool   `yaml:"read_only,omitempty" doc:"Map and mount the root read-only."`
	Grow      bool   `yaml:"grow,omitempty" doc:"At boot grow its ext4 or xfs to the end of the disk, where that was made larger."`
	Mode      string `yaml:"mode,omitempty" enum:"crypt crypt-integrity verity" doc:"How the root is protected; default: crypt."`

	FileSystem  string `yaml:"file_system,omitempty" enum:"ext4 erofs" doc:"What is made of files; erofs is read-only; default: ext4."`
	Overlay     string `yaml:"overlay,omitempty" enum:"none memory volume" doc:"Writable layer over a read-only root; default: none."`
	OverlaySize Size   `yaml:"overlay_size,omitempty" doc:"Its size, such as 512M; default in memory: half of the guest's memory."`
	OverlayMode string `yaml:"overlay_mode,omitempty" enum:"crypt crypt-integrity" doc:"How its volume is protected; default: crypt-integrity over mode verity, else crypt."`
	OverlayKey  string `yaml:"overlay_key,omitempty" enum:"sealed fresh" doc:"Whether its volume's key is sealed in the image, or made afresh at each boot, which starts with an empty layer; default: sealed."`
}

// Volume is a data volume.
type Volume struct {
	Name      string `yaml:"name,omitempty" doc:"Its name, a-z, 0-9 and '-', at most 16 characters."`
	Mount     string `yaml:"mount,omitempty" doc:"Folder in the root where it is mounted."`
	Source    Source `yaml:"source,omitempty" doc:"What is in it, as for root; default: nothing."`
	Partition int    `yaml:"partition,omitempty" doc:"Number of the partition of a disk image; default: the only one there." min:"1" max:"128"`
	Size      Size   `yaml:"size,omitempty" doc:"Size of the file system, such as 10G; needed without a source."`
	ReadOnly  bool   `yaml:"read_only,omitempty" doc:"Map and mount it read-only."`
	Key       string `yaml:"key,omitempty" enum:"sealed fresh" doc:"Whether its key is sealed in the image, or made afresh at each boot, which starts with an empty volume; default: sealed."`
	Grow      bool   `yaml:"grow,omitempty" doc:"At boot grow its ext4 or xfs to the end of the disk, where that was made larger."`
	Mode      string `yaml:"mode,omitempty" enum:"crypt crypt-integrity verity" doc:"How it is protected; default: crypt."`

	FileSystem string `yaml:"file_system,omitempty" enum:"ext4 erofs" doc:"What is made of files; erofs is read-only; default: ext4."`
}

// Swap is swap space.
type Swap struct {
	Size Size `yaml:"size,omitempty" doc:"Its size, such as 1G."`
}

// Devices are kinds of devices.
type Devices struct {
	SCSI      bool `yaml:"scsi,omitempty" doc:"Disks on virtio-scsi; default: false, but for a bootable disk."`
	NoNetwork bool `yaml:"no_network,omitempty" doc:"No network device, in a root with an init of its own; a workload has network.mode none; default: false."`
}

// Hardening is what is closed in the guest beyond what guestinit always closes.
type Hardening struct {
	Lockdown    string   `yaml:"lockdown,omitempty" enum:"none integrity confidentiality" doc:"The kernel's lockdown mode from the hand-over on; default: none."`
	LockModules bool     `yaml:"lock_modules,omitempty" doc:"Load no kernel module after the hand-over; default: false."`
	HidePIDs    bool     `yaml:"hide_pids,omitempty" doc:"Show users only their own processes in /proc; default: false."`
	Sysctls     []string `yaml:"sysctls,omitempty" doc:"Kernel parameters to set before the hand-over, each NAME=VALUE."`
}

// Channel is the owner's channel.
type Channel struct {
	Disable bool     `yaml:"disable,omitempty" doc:"Make no channel; default: false."`
	Clients []string `yaml:"clients,omitempty" doc:"Public keys that may use it beside the secrets' channel.key: Ed25519, in hex, as in channel.pub."`
	Exec    bool     `yaml:"exec,omitempty" doc:"Let clients run programs in the guest; default: false."`
	Secrets []Secret `yaml:"secrets,omitempty" doc:"Files in memory that a client delivers, in /run/secexec/secrets."`
}

// Secret is a file that a client of the channel delivers.
type Secret struct {
	Name  string `yaml:"name,omitempty" doc:"The file's name."`
	Mode  string `yaml:"mode,omitempty" doc:"Its permissions in octal, quoted; default: 0400."`
	User  int    `yaml:"user,omitempty" doc:"Number of the user whose it is; default: 0." min:"0" max:"4294967294"`
	Group int    `yaml:"group,omitempty" doc:"Number of its group; default: 0." min:"0" max:"4294967294"`
}

// Hosts are the host key documents and what they are verified with.
type Hosts struct {
	Documents []Path `yaml:"documents,omitempty" doc:"Host key documents, a key slot for each."`
	Certs     []Path `yaml:"certs,omitempty" doc:"IBM Z signing certificate and intermediate CA certificates."`
	CRLs      []Path `yaml:"crls,omitempty" doc:"Certificate revocation lists of the chain; default: downloaded."`
	Offline   bool   `yaml:"offline,omitempty" doc:"Download no revocation lists: use only crls."`
	RootCA    Path   `yaml:"root_ca,omitempty" doc:"Root CA certificate; default: the system's."`
	NoVerify  bool   `yaml:"no_verify,omitempty" doc:"Take the documents without verification: anybody's key may open the image."`
}

// Path is a path. In the file it is relative to the file's folder; Parse gives
// it relative to the working directory.
type Path string

// Source is a path, or a container image with its transport, such as
// docker://example.com/app:1 or oci:folder. Where a transport is followed by a
// path, that is relative as paths are.
type Source string

// relocate gives a source's path to replace.
func (s Source) relocate(replace func(Path) Path) Source {
	transport, rest, ok := oci.Transport(string(s))
	switch {
	case !ok:
		return Source(replace(Path(s)))
	case transport == "docker":
		return s
	}
	path, tag, tagged := strings.Cut(rest, ":")
	s = Source(transport + ":" + string(replace(Path(path))))
	if tagged {
		s += Source(":" + tag)
	}
	return s
}

// Size is a number of bytes, written with K, M, G or T for powers of 1024.
type Size int64

// ParseSize parses a size such as 512M.
func ParseSize(text string) (Size, error) {
	number, shift := text, 0
	if i := strings.IndexAny(text, "KMGT"); i >= 0 && i == len(text)-1 {
		number, shift = text[:i], 10*(1+strings.IndexByte("KMGT", text[i]))
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || n == 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is no size such as 512M or 2G", text)
	}
	return Size(n << shift), nil
}

// String gives the size with the largest suffix that leaves a whole number.
func (s Size) String() string {
	n, suffix := int64(s), ""
	for _, next := range []string{"K", "M", "G", "T"} {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, suffix = n/1024, next
	}
	return strconv.FormatInt(n, 10) + suffix
}

// MarshalYAML writes the size as people do.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

// Marshal returns the file's text.
func (f *File) Marshal() ([]byte, error) {
	text, err := yaml.MarshalWithOptions(f, yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("write build file: %w", err)
	}
	return text, nil
}

// Absolute returns a copy whose paths don't depend on the working directory.
func (f *File) Absolute() (*File, error) {
	c := *f
	c.Kernel, c.Modules = slices.Clone(f.Kernel), slices.Clone(f.Modules)
	c.Volumes = slices.Clone(f.Volumes)
	c.Hardening.Sysctls = slices.Clone(f.Hardening.Sysctls)
	c.Hosts.Documents, c.Hosts.Certs, c.Hosts.CRLs = slices.Clone(f.Hosts.Documents), slices.Clone(f.Hosts.Certs), slices.Clone(f.Hosts.CRLs)
	var err error
	eachPath(reflect.ValueOf(&c).Elem(), func(p Path) Path {
		abs, e := filepath.Abs(string(p))
		err = errors.Join(err, e)
		return Path(abs)
	})
	return &c, err
}

// eachPath replaces every path that is given.
func eachPath(v reflect.Value, replace func(Path) Path) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			eachPath(v.Field(i), replace)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachPath(v.Index(i), replace)
		}
	case reflect.String:
		switch {
		case v.String() == "":
		case v.Type() == reflect.TypeFor[Path]():
			v.SetString(string(replace(Path(v.String()))))
		case v.Type() == reflect.TypeFor[Source]():
			v.SetString(string(Source(v.String()).relocate(replace)))
		}
	}
}
