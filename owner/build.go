// Package owner does the owner's build in one step: it encrypts the root and
// data volumes, packs the initrd with the sealed record, seals the boot image
// for the given hosts and writes two folders: the bundle, which goes to the
// provider, and the secrets, which stay.
package owner

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/secexec/secexec/bootdisk"
	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/sealed"
)

// Names of a bundle's parts and the root disk's serial number.
const (
	imageFile    = "boot.seimg"
	bootableFile = "disk.raw"
	RootSerial   = "root"
)

// Result is what was built.
type Result struct {
	Manifest   bundle.Manifest
	Cmdline    string
	Workload   *sealed.Workload // that runs in the guest; by Check without what only the root knows: user, groups, home. nil: Init does
	Init       string
	Release    string // of the kernel
	Modules    int    // kernel modules in the initrd
	InitrdSize int64
	Updated    bool     // an earlier build was replaced
	Reused     []string // names of disks that are that build's
}

// Build builds. All outputs appear, or none. An update replaces the secrets
// first, which keep the previous keys: whatever happens in between, the bundle
// that is there can be opened with them.
func Build(ctx context.Context, p Plan) (*Result, error) {
	out, err := p.openOutputs()
	if err != nil {
		return nil, err
	}
	defer out.abort()
	found, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	defer found.kernel.Close()
	res := &Result{Cmdline: found.cmdline, Init: p.Init, Release: found.kernel.Release, Updated: out.prev != nil}

	keys := newSecrets()
	defer keys.wipe()
	disks, err := p.disks(out.prev)
	if err != nil {
		return nil, err
	}
	defer wipeDisks(disks)
	for _, d := range disks {
		if err := d.make(ctx, &p, out.prev, out.bundle); err != nil {
			return nil, err
		}
		if d.reused {
			res.Reused = append(res.Reused, d.name)
		}
	}

	if found.workload != nil {
		res.Workload = disks[0].about.Account.as(found.workload)
	}

	p.step("pack initrd")
	record := p.record(keys, disks, res.Workload)
	defer record.EntropySeed.Wipe()
	rd, err := packInitrd(ctx, &p, found, record, fileSystems(disks), out.secrets)
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	res.Modules = len(record.Modules)

	p.step("seal boot image")
	if res.InitrdSize, err = sealImage(ctx, &p, found, rd, keys, out.bundle.Join(imageFile)); err != nil {
		return nil, err
	}
	if p.BootableDisk != "" {
		p.step("make bootable disk")
		if err := assemble(ctx, disks, out.prev, out.bundle); err != nil {
			return nil, err
		}
		if err := copyDisk(ctx, out.bundle.Join(bootableFile), out.disk, strings.HasSuffix(p.BootableDisk, ".qcow2")); err != nil {
			return nil, err
		}
	}

	p.step("write manifest")
	if err := writeManifest(ctx, &p, record, disks, out.bundle, &res.Manifest); err != nil {
		return nil, err
	}
	if err := keys.write(out.secrets, disks, record.Channel != nil, about(&p, record, disks, &res.Manifest)); err != nil {
		return nil, err
	}
	if out.prev != nil {
		if err := out.prev.keep(out.secrets); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return res, out.commit()
}

// outputs are what a build makes.
type outputs struct {
	prev            *previous // what they replace, nil: nothing
	secrets, bundle *outfile.Dir
	disk            *outfile.File // nil without a bootable disk
}

func (p *Plan) openOutputs() (out *outputs, err error) {
	out = &outputs{}
	defer func() {
		if err != nil {
			out.abort()
		}
	}()
	makeDir := outfile.CreateDir
	if p.Update {
		if out.prev, err = openPrevious(p.Bundle, p.Secrets); err != nil {
			return out, err
		}
		if out.prev != nil {
			makeDir = outfile.ReplaceDir
		}
	}
	if out.secrets, err = makeDir(p.Secrets, 0o700); err != nil {
		return out, err
	}
	if out.bundle, err = makeDir(p.Bundle, 0o755); err != nil {
		return out, err
	}
	if p.BootableDisk != "" {
		out.disk, err = outfile.Create(p.BootableDisk, 0o644, p.Update)
	}
	return out, err
}

func (out *outputs) abort() {
	if out.disk != nil {
		out.disk.Abort()
	}
	for _, dir := range []*outfile.Dir{out.bundle, out.secrets} {
		if dir != nil {
			dir.Abort()
		}
	}
}

// commit puts all in place, the secrets first. What a failed first build has
// put there already is taken away again.
func (out *outputs) commit() error {
	if err := out.secrets.Commit(); err != nil {
		return err
	}
	err := out.bundle.Commit()
	if err != nil {
		if out.prev == nil {
			out.secrets.Withdraw()
		}
		return err
	}
	if out.disk == nil {
		return nil
	}
	if err = out.disk.Commit(); err != nil && out.prev == nil {
		out.bundle.Withdraw()
		out.secrets.Withdraw()
	}
	return err
}

// copyDisk gives the bootable disk to the owner in a file of its own.
func copyDisk(ctx context.Context, from string, to *outfile.File, qcow2 bool) error {
	raw, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy bootable disk: %w", err)
	}
	defer raw.Close()
	info, err := raw.Stat()
	if err != nil {
		return fmt.Errorf("copy bootable disk: %w", err)
	}
	if qcow2 {
		return bootdisk.ToQCOW2(ctx, to.File, raw, info.Size())
	}
	if _, err := io.Copy(to.File, raw); err != nil { // in the kernel, shared where the file system can
		return fmt.Errorf("copy bootable disk: %w", err)
	}
	return nil
}

func writeManifest(ctx context.Context, p *Plan, record *sealed.Record, disks []*disk, dir *outfile.Dir, m *bundle.Manifest) error {
	*m = bundle.Manifest{
		Version:   bundle.Version,
		Name:      p.Name,
		Identity:  hex.EncodeToString(record.PublicKey()),
		MemoryMiB: p.MemoryMiB,
	}
	if p.BootableDisk != "" {
		m.Boot = bundle.BootDisk
	}
	for _, doc := range p.Hosts {
		hash := doc.Hash()
		m.KeySlots = append(m.KeySlots, bundle.KeySlot{HostKeyHash: hex.EncodeToString(hash[:]), Subject: doc.Subject()})
	}
	image, err := describe(ctx, dir, imageFile)
	if err != nil {
		return err
	}
	m.Image = bundle.Image{Part: image, ID: hex.EncodeToString(record.ImageID[:])}
	if m.Disks, err = bundleDisks(ctx, p, disks, dir); err != nil {
		return err
	}
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

// ParseIdentity parses the text of identity.pub, or the identity of a
// manifest: an Ed25519 public key in hex.
func ParseIdentity(text []byte) (ed25519.PublicKey, error) {
	if len(text) > 0 && text[len(text)-1] == '\n' {
		text = text[:len(text)-1]
	}
	key := make([]byte, ed25519.PublicKeySize)
	if len(text) != 2*len(key) {
		return nil, fmt.Errorf("parse identity: %d characters, wants an Ed25519 public key of %d in hex", len(text), 2*len(key))
	}
	if _, err := hex.Decode(key, text); err != nil {
		return nil, fmt.Errorf("parse identity: %w", err)
	}
	return key, nil
}
