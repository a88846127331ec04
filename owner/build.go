// Package owner does the owner's build in one step: it encrypts the root,
// packs the initrd with the sealed record, seals the boot image for the given
// hosts and writes two folders: the bundle, which goes to the provider, and
// the secrets, which stay.
package owner

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/initrd"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage"
)

// Names of a bundle's parts and the root disk's serial number.
const (
	imageFile  = "boot.seimg"
	rootFile   = "root.img"
	RootSerial = "root"
)

// Plan says what to build.
type Plan struct {
	Name       string // the bundle's name, and the guest's unless the operator chooses another
	Kernel     string // path of a raw s390x Linux image
	Modules    string // folder that holds lib/modules/RELEASE or modules.dep itself
	Root       Root
	GuestDir   string // folder with the s390x binaries guestinit and guestagent
	Cmdline    string // kernel command line, "" for DefaultCmdline
	Init       string
	StopSignal uint8
	MemoryMiB  int
	Hosts      []*hostkey.Document // verified by the caller, a key slot for each

	Bundle  string // folder to make
	Secrets string // folder to make, mode 0700
	Update  bool   // replace both if they exist, with what did not change

	Step func(name string) // told before each step, may be nil
}

// Root is the root file system.
type Root struct {
	Source   string // folder or tar archive
	Size     int64  // bytes of the file system, 0: content and head-room
	ReadOnly bool
}

// Result is what was built.
type Result struct {
	Manifest   bundle.Manifest
	Cmdline    string
	Modules    int // kernel modules in the initrd
	InitrdSize int64
	Updated    bool // an earlier build was replaced
	RootReused bool // its root disk is this one's
}

// DefaultCmdline returns the kernel command line that an SE guest with this
// many virtio devices needs.
//
//   - console=ttysclp0 is the SCLP console; quiet keeps what the host may read
//     of it to errors and the workload's own words.
//   - panic=0 stops the CPUs, which QEMU reports as a guest panic and ends; a
//     number would let a panicking guest boot again and again.
//   - swiotlb is the bounce buffer through which all virtio data passes, counted
//     in slabs of 2 KiB (kernel-parameters.txt): 32 MiB and 16 MiB per device.
func DefaultCmdline(devices int) string {
	const slab = 2 << 10
	return fmt.Sprintf("console=ttysclp0 quiet panic=0 swiotlb=%d", (32+16*devices)<<20/slab)
}

// Build builds. Both folders appear, or none. An update replaces the secrets
// first, which keep the previous keys: whatever happens in between, the bundle
// that is there can be opened with them.
func Build(ctx context.Context, p Plan) (*Result, error) {
	step := func(name string) {
		if p.Step != nil {
			p.Step(name)
		}
	}
	var prev *previous
	makeDir := outfile.CreateDir
	if p.Update {
		var err error
		if prev, err = openPrevious(p.Bundle, p.Secrets); err != nil {
			return nil, err
		}
		if prev != nil {
			makeDir = outfile.ReplaceDir
		}
	}
	secretsDir, err := makeDir(p.Secrets, 0o700)
	if err != nil {
		return nil, err
	}
	defer secretsDir.Abort()
	bundleDir, err := makeDir(p.Bundle, 0o755)
	if err != nil {
		return nil, err
	}
	defer bundleDir.Abort()

	res, err := p.Check()
	if err != nil {
		return nil, err
	}
	res.Updated = prev != nil
	keys := newSecrets()
	defer keys.wipe()
	if prev != nil {
		if keys.Volume, keys.Passphrase, err = prev.volumeKeys(); err != nil {
			return nil, err
		}
	}

	volume, print, err := makeRoot(ctx, p, prev, keys, bundleDir, step)
	if err != nil {
		return nil, err
	}
	res.RootReused = volume.reused

	step("pack initrd")
	record := &sealed.Record{
		ImageID:      [sealed.IDSize]byte(secret.Random(sealed.IDSize)),
		IdentitySeed: keys.Identity,
		Root: sealed.Volume{
			ID: volume.ID, Serial: RootSerial, Key: keys.Volume, Cipher: sealed.Cipher,
			Offset: uint64(volume.Offset), Size: uint64(volume.Size), FSType: "ext4", ReadOnly: p.Root.ReadOnly,
		},
		Init: p.Init, StopSignal: p.StopSignal,
	}
	rd, err := packInitrd(ctx, p, record, secretsDir)
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	res.Modules = len(record.Modules)

	step("seal boot image")
	if res.InitrdSize, err = sealImage(ctx, p, res.Cmdline, rd, keys, bundleDir.Join(imageFile)); err != nil {
		return nil, err
	}

	step("write manifest")
	if err := writeManifest(ctx, p, record, bundleDir, &res.Manifest); err != nil {
		return nil, err
	}
	root := &RootAbout{Fingerprint: print, SHA256: res.Manifest.Disks[0].SHA256, Offset: volume.Offset, Size: volume.Size}
	if err := keys.write(secretsDir, p.Name, record, root); err != nil {
		return nil, err
	}
	if prev != nil {
		if err := prev.keep(secretsDir); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := secretsDir.Commit(); err != nil {
		return nil, err
	}
	if err := bundleDir.Commit(); err != nil {
		if prev == nil {
			secretsDir.Withdraw()
		}
		return nil, err
	}
	return res, nil
}

// rootVolume is the root disk of a build.
type rootVolume struct {
	*rootdisk.Volume
	reused bool
}

// makeRoot makes the root disk, or takes the previous build's, and returns the
// fingerprint of its source.
func makeRoot(ctx context.Context, p Plan, prev *previous, keys *secrets, into *outfile.Dir, step func(string)) (rootVolume, string, error) {
	step("read root file system")
	print, err := fingerprint(ctx, p.Root)
	if err != nil {
		return rootVolume{}, "", err
	}
	if prev != nil {
		if v, err := prev.takeRoot(ctx, print, into); v != nil || err != nil {
			return rootVolume{v, true}, print, err
		}
	}
	step("encrypt root disk")
	v, err := rootdisk.Create(ctx, into.Join(rootFile), rootdisk.Options{
		Source: p.Root.Source, Size: p.Root.Size, Key: keys.Volume, Passphrase: keys.Passphrase,
	})
	if err != nil {
		return rootVolume{}, "", fmt.Errorf("create root disk: %w", err)
	}
	return rootVolume{v, false}, print, nil
}

// Check refuses a plan that could not be built, before any of the work, and
// returns what is known of the result: its kernel command line.
func (p *Plan) Check() (*Result, error) {
	res := &Result{Cmdline: p.Cmdline}
	if res.Cmdline == "" {
		res.Cmdline = DefaultCmdline(3) // root disk, readiness port, network
	}
	if err := bundle.CheckName(p.Name); err != nil {
		return nil, err
	}
	if err := sealed.CheckInit(p.Init); err != nil {
		return nil, err
	}
	if _, err := os.Stat(p.Root.Source); err != nil {
		return nil, fmt.Errorf("open root file system: %w", err)
	}
	if _, err := initrd.FindTree(p.Modules); err != nil {
		return nil, fmt.Errorf("open kernel modules: %w", err)
	}
	kernel, err := os.Open(p.Kernel)
	if err != nil {
		return nil, fmt.Errorf("open kernel: %w", err)
	}
	defer kernel.Close()
	info, err := kernel.Stat()
	if err != nil {
		return nil, fmt.Errorf("open kernel: %w", err)
	}
	return res, seimage.CheckKernel(kernel, info.Size(), []byte(res.Cmdline))
}

// packInitrd writes the initrd to a file without a name: it holds the volume
// key in plain text.
func packInitrd(ctx context.Context, p Plan, record *sealed.Record, in *outfile.Dir) (*os.File, error) {
	f, err := os.CreateTemp(in.Path, "initrd-*")
	if err != nil {
		return nil, fmt.Errorf("pack initrd: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("pack initrd: %w", err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	err = initrd.Write(ctx, w, initrd.Plan{
		Modules: p.Modules,
		Want:    initrd.DefaultModules,
		Init:    filepath.Join(p.GuestDir, "guestinit"),
		Agent:   filepath.Join(p.GuestDir, "guestagent"),
		Record:  record,
	})
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("pack initrd: %w", err)
	}
	return f, nil
}

func sealImage(ctx context.Context, p Plan, cmdline string, rd *os.File, keys *secrets, path string) (int64, error) {
	kernel, err := os.Open(p.Kernel)
	if err != nil {
		return 0, fmt.Errorf("open kernel: %w", err)
	}
	defer kernel.Close()
	kernelInfo, err := kernel.Stat()
	if err != nil {
		return 0, fmt.Errorf("open kernel: %w", err)
	}
	rdInfo, err := rd.Stat()
	if err != nil {
		return 0, fmt.Errorf("read initrd: %w", err)
	}
	out, err := outfile.Create(path, 0o644, false)
	if err != nil {
		return 0, err
	}
	defer out.Abort()
	hosts := make([]*ecdsa.PublicKey, len(p.Hosts))
	for i, doc := range p.Hosts {
		hosts[i] = doc.Key
	}
	_, err = seimage.Create(ctx, out, seimage.Spec{
		Kernel:    seimage.Source{R: kernel, Size: kernelInfo.Size()},
		Initrd:    seimage.Source{R: rd, Size: rdInfo.Size()},
		Cmdline:   []byte(cmdline),
		Hosts:     hosts,
		HeaderKey: keys.Header,
		ImageKey:  keys.Image,
		CommKey:   keys.Comm,
	})
	if err != nil {
		return 0, fmt.Errorf("seal boot image: %w", err)
	}
	return rdInfo.Size(), out.Commit()
}

func writeManifest(ctx context.Context, p Plan, record *sealed.Record, dir *outfile.Dir, m *bundle.Manifest) error {
	*m = bundle.Manifest{
		Version:   bundle.Version,
		Name:      p.Name,
		Identity:  hex.EncodeToString(record.PublicKey()),
		MemoryMiB: p.MemoryMiB,
	}
	for _, doc := range p.Hosts {
		hash := doc.Hash()
		m.KeySlots = append(m.KeySlots, bundle.KeySlot{HostKeyHash: hex.EncodeToString(hash[:]), Subject: doc.Subject()})
	}
	image, err := describe(ctx, dir, imageFile)
	if err != nil {
		return err
	}
	root, err := describe(ctx, dir, rootFile)
	if err != nil {
		return err
	}
	m.Image = bundle.Image{Part: image, ID: hex.EncodeToString(record.ImageID[:])}
	m.Disks = []bundle.Disk{{Part: root, Serial: RootSerial, Format: "raw", ReadOnly: p.Root.ReadOnly}}
	text, err := m.Marshal()
	if err != nil {
		return err
	}
	return dir.WriteFile(bundle.ManifestFile, text, 0o644)
}

func describe(ctx context.Context, dir *outfile.Dir, name string) (bundle.Part, error) {
	f, err := os.Open(dir.Join(name))
	if err != nil {
		return bundle.Part{}, fmt.Errorf("describe part: %w", err)
	}
	defer f.Close()
	return bundle.Describe(ctx, name, f)
}
