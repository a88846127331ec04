package owner

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"slices"

	"github.com/secexec/secexec/bootdisk"
	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/secret"
)

// disk is one encrypted volume of a build: the root or a data volume. Build
// owns its keys.
type disk struct {
	name  string  // its serial number too
	mount string  // "" for the root
	user  *string // of the root's workload, to be looked up there; nil: none
	fs    FileSystem
	guid  bootdisk.GUID // its partition on a bootable disk, zero without one

	id              [16]byte     // LUKS2 UUID: the one before, so that the file system keeps its layout; zero: a new one
	key, passphrase secret.Bytes // volume key; key file of the LUKS2 key slot
	about           DiskAbout    // complete after make
	reused          bool         // from the build before
}

// DiskAbout tells, in about.json, whether the next build may take a disk as it
// is. The digest is the owner's own: the one in the bundle has been to the
// provider.
type DiskAbout struct {
	Fingerprint string `json:"fingerprint"` // of the source and its options, "" where it has none
	SHA256      string `json:"sha256"`      // of the disk, LUKS2 header and payload
	ID          string `json:"id"`          // LUKS2 UUID, hex
	FSType      string `json:"fs_type"`
	Offset      int64  `json:"payload_offset"`
	Size        int64  `json:"payload_size"`
	PartUUID    string `json:"part_uuid,omitempty"` // of its partition on a bootable disk

	Account *Account `json:"account,omitempty"` // what its files say of the workload's user
}

// disks returns what the plan wants encrypted, the root first. Keys and
// partition numbers are those of the build before, where it had the volume.
func (p *Plan) disks(prev *previous) ([]*disk, error) {
	all := []*disk{{name: RootSerial, fs: p.Root}}
	if p.Workload != nil {
		all[0].user = &p.Workload.User
	}
	for _, v := range p.Volumes {
		all = append(all, &disk{name: v.Name, mount: v.Mount, fs: v.FileSystem})
	}
	for _, d := range all {
		before, known := prev.disk(d.name)
		if known {
			var err error
			if d.key, d.passphrase, err = prev.volumeKeys(d); err != nil {
				wipeDisks(all)
				return nil, err
			}
			_, _ = hex.Decode(d.id[:], []byte(before.ID))
		} else {
			d.key, d.passphrase = secret.Random(sealed.KeySize), secret.Random(64)
		}
		if p.BootableDisk == "" {
			continue
		}
		d.guid = bootdisk.NewGUID()
		if g, err := bootdisk.ParseGUID(before.PartUUID); err == nil {
			d.guid = g
		}
	}
	return all, nil
}

func wipeDisks(all []*disk) {
	for _, d := range all {
		d.key.Wipe()
		d.passphrase.Wipe()
	}
}

// Names of its files, in the bundle and among the secrets.
func (d *disk) file() string           { return d.name + ".img" }
func (d *disk) volumeKeyFile() string  { return d.keyFile(VolumeKeyFile) }
func (d *disk) passphraseFile() string { return d.keyFile(DiskKeyFile) }

func (d *disk) keyFile(name string) string {
	if d.name == RootSerial {
		return name
	}
	return d.name + "." + name
}

// what names the disk for people.
func (d *disk) what() string {
	if d.name == RootSerial {
		return "root disk"
	}
	return "volume " + d.name
}

// make encrypts the disk into a folder, or takes the one of the build before.
func (d *disk) make(ctx context.Context, p *Plan, prev *previous, into *outfile.Dir) error {
	p.step("read " + d.what())
	print, err := fingerprint(ctx, d.fs)
	if err != nil {
		return err
	}
	if d.user != nil && print != "" {
		print += " user " + *d.user
	}
	if d.reused, err = prev.take(ctx, d, print, into); d.reused || err != nil {
		return err
	}
	p.step("encrypt " + d.what())
	v, err := rootdisk.Create(ctx, into.Join(d.file()), rootdisk.Options{
		Source: d.fs.Source, Partition: d.fs.Partition, Size: d.fs.Size, ID: d.id, Key: d.key, Passphrase: d.passphrase, SkipTLS: p.SkipTLS,
		Read:    []string{passwdFile, groupFile},
		Skipped: func(name string) { p.warn(d.what() + ": socket " + name + " is left out") },
	})
	if err != nil {
		return fmt.Errorf("create %s: %w", d.what(), err)
	}
	d.about = DiskAbout{Fingerprint: print, ID: hex.EncodeToString(v.ID[:]), FSType: v.FSType, Offset: v.Offset, Size: v.Size}
	if d.user != nil {
		d.about.Account, err = account(*d.user, v.Files)
	}
	return err
}

// volume is the disk as the sealed record has it. The record shares its key.
func (d *disk) volume() sealed.Volume {
	v := sealed.Volume{
		Key: d.key, Offset: uint64(d.about.Offset), Size: uint64(d.about.Size),
		FSType: d.about.FSType, ReadOnly: d.fs.ReadOnly || d.about.FSType == "erofs",
	}
	_, _ = hex.Decode(v.ID[:], []byte(d.about.ID))
	if d.guid == (bootdisk.GUID{}) {
		v.Serial = d.name
	} else {
		v.PartUUID = d.guid
	}
	return v
}

// assemble puts image and disks on one bootable disk in the bundle's folder,
// where it takes the disks' place. An earlier image that still fits them stays
// in the boot menu, second.
func assemble(ctx context.Context, all []*disk, prev *previous, into *outfile.Dir) error {
	o := bootdisk.Options{Images: []string{into.Join(imageFile)}}
	if image := prev.bootImage(ctx, all); image != "" {
		o.Images = append(o.Images, image)
	}
	for _, d := range all {
		o.Volumes = append(o.Volumes, bootdisk.Volume{ID: d.guid, Name: d.name, Path: into.Join(d.file())})
		d.about.PartUUID = d.guid.String()
	}
	if _, err := bootdisk.Create(ctx, into.Join(bootableFile), o); err != nil {
		return err
	}
	for _, d := range all {
		if err := os.Remove(into.Join(d.file())); err != nil {
			return fmt.Errorf("make bootable disk: %w", err)
		}
	}
	return nil
}

// bundleDisks describes the disks for the manifest.
func bundleDisks(ctx context.Context, p *Plan, all []*disk, in *outfile.Dir) ([]bundle.Disk, error) {
	if p.BootableDisk != "" {
		part, err := describe(ctx, in, bootableFile)
		return []bundle.Disk{{Part: part, Serial: "disk", Format: "raw"}}, err
	}
	var out []bundle.Disk
	for _, d := range all {
		part, err := describe(ctx, in, d.file())
		if err != nil {
			return nil, err
		}
		d.about.SHA256 = part.SHA256
		out = append(out, bundle.Disk{Part: part, Serial: d.name, Format: "raw", ReadOnly: d.volume().ReadOnly})
	}
	return out, nil
}

// fileSystems are what the guest must be able to mount.
func fileSystems(all []*disk) (names []string) {
	for _, d := range all {
		if !slices.Contains(names, d.about.FSType) {
			names = append(names, d.about.FSType)
		}
	}
	return names
}
