// Package bundle is what an owner hands to a provider: a folder with
// bundle.json (the manifest), boot.seimg (the SE boot image) and root.img (the
// encrypted root disk). Nothing in it is secret.
//
// The manifest is a convenience for the provider: digests against damage in
// transit, an index of the hosts that can start the image. It is not signed and
// nothing that the guest or the owner trusts rests on it; the SE image protects
// itself.
package bundle

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/secexec/secexec/form"
)

// ManifestFile is the manifest's name in a bundle folder.
const ManifestFile = "bundle.json"

// Versions of the manifest. Marshal wants the lowest that says all of it.
const (
	Version      = 1
	VersionBlank = 2 // it has blank disks
)

// Limits of a manifest, checked before anything it names is opened.
const (
	MaxManifestSize = 1 << 20
	MaxDisks        = 16
	MaxKeySlots     = 95 // what an SE header of 8192 bytes holds
	MaxMemoryMiB    = 4 << 20
	MaxBlank        = 16 << 40 // bytes of a blank disk
)

// ErrManifest is wrapped by every error about a manifest's text or values.
var ErrManifest = errors.New("invalid bundle manifest")

// Manifest is bundle.json. Parse is strict: an unknown field, a second value or
// text that Marshal would not write is refused.
type Manifest struct {
	Version   int       `json:"version"`
	Name      string    `json:"name"`
	Image     Image     `json:"image"`
	Disks     []Disk    `json:"disks"`
	KeySlots  []KeySlot `json:"key_slots"`
	Identity  string    `json:"identity"`       // Ed25519 public key that checks readiness reports, hex
	MemoryMiB int       `json:"memory_mib"`     // guest memory the owner built for
	Boot      string    `json:"boot,omitempty"` // BootImage or BootDisk
}

// How a guest is booted.
const (
	BootImage = ""     // QEMU loads the image
	BootDisk  = "disk" // firmware loads an image from the first disk, a bootable one (package bootdisk)
)

// Image describes the SE boot image. With BootDisk it is the one on the disk
// that boots by default, here to show which hosts can start it.
type Image struct {
	Part
	ID string `json:"id"` // image identity as in readiness reports, 16 bytes hex
}

// Disk describes one disk. A blank one is no file of the bundle: whoever runs
// the guest makes a raw disk of its size for it. Its digest is "".
type Disk struct {
	Part
	Serial   string `json:"serial"` // virtio-blk serial by which the guest finds it
	Format   string `json:"format"` // FormatRaw or FormatBlank
	ReadOnly bool   `json:"read_only"`
}

// Formats of disks.
const (
	FormatRaw   = "raw"
	FormatBlank = "blank"
)

// Blank tells whether a disk has no content.
func (d *Disk) Blank() bool { return d.Format == FormatBlank }

// Parts are the files of the bundle besides its manifest: the image, then the
// disks that have content.
func (m *Manifest) Parts() []Part {
	out := []Part{m.Image.Part}
	for i := range m.Disks {
		if !m.Disks[i].Blank() {
			out = append(out, m.Disks[i].Part)
		}
	}
	return out
}

// Lowest is the lowest version that says all of a manifest.
func (m *Manifest) Lowest() int {
	if slices.ContainsFunc(m.Disks, func(d Disk) bool { return d.Blank() }) {
		return VersionBlank
	}
	return Version
}

// Part names a file of the bundle with its size in bytes and SHA-256 digest in hex.
type Part struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// KeySlot names a host that can start the image: the SHA-256 digest over the
// coordinates of its public key (hex, 32 bytes) and its host key document's subject.
type KeySlot struct {
	HostKeyHash string `json:"host_key_hash"`
	Subject     string `json:"subject"`
}

// ParseManifest parses bundle.json.
func ParseManifest(text []byte) (*Manifest, error) {
	if len(text) > MaxManifestSize {
		return nil, invalid("%d bytes, at most %d", len(text), MaxManifestSize)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	m := new(Manifest)
	if err := d.Decode(m); err != nil {
		return nil, invalid("%v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, invalid("text after the manifest")
	}
	// JSON has many texts for one value, and encoding/json takes fields twice and
	// in any case: one text only, so that all readers read the same.
	canonical, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(canonical, text) {
		return nil, invalid("it is not in the form that secexec writes")
	}
	return m, nil
}

// Marshal returns the manifest's text.
func (m *Manifest) Marshal() ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	return append(text, '\n'), nil
}

// CheckName refuses what may not name a workload.
func CheckName(name string) error {
	if !form.Name.MatchString(name) {
		return invalid("name %q is not 1 to 63 characters of a-z, 0-9 and '-'", name)
	}
	return nil
}

// Check reports the first value that breaks the form, wrapped in ErrManifest.
func (m *Manifest) Check() error {
	switch {
	case m.Version != Version && m.Version != VersionBlank:
		return invalid("version %d, this secexec knows %d and %d", m.Version, Version, VersionBlank)
	case m.Version != m.Lowest():
		return invalid("version %d, what it says is version %d", m.Version, m.Lowest())
	case CheckName(m.Name) != nil:
		return CheckName(m.Name)
	case !isHex(m.Image.ID, 16):
		return invalid("image id %q is not 16 bytes in hex", m.Image.ID)
	case len(m.Disks) == 0 || len(m.Disks) > MaxDisks:
		return invalid("%d disks, wants 1 to %d", len(m.Disks), MaxDisks)
	case len(m.KeySlots) == 0 || len(m.KeySlots) > MaxKeySlots:
		return invalid("%d key slots, wants 1 to %d", len(m.KeySlots), MaxKeySlots)
	case !isHex(m.Identity, ed25519.PublicKeySize):
		return invalid("identity %q is not an Ed25519 public key in hex", m.Identity)
	case m.MemoryMiB < 64 || m.MemoryMiB > MaxMemoryMiB:
		return invalid("memory %d MiB is not in 64..%d", m.MemoryMiB, MaxMemoryMiB)
	}
	switch {
	case m.Boot != BootImage && m.Boot != BootDisk:
		return invalid("boot %q is neither absent nor %q", m.Boot, BootDisk)
	case m.Boot == BootDisk && m.Disks[0].Blank():
		return invalid("it boots from a blank disk")
	}
	if err := m.Image.check(); err != nil {
		return err
	}
	files := map[string]bool{m.Image.File: true, ManifestFile: true}
	serials := make(map[string]bool)
	for _, d := range m.Disks {
		if err := d.check(); err != nil {
			return err
		}
		switch {
		case files[d.File]:
			return invalid("file %q is named twice", d.File)
		case !form.Serial.MatchString(d.Serial) || serials[d.Serial]:
			return invalid("disk serial %q is not a unique name of 1 to 20 characters", d.Serial)
		case d.Format != FormatRaw && !d.Blank():
			return invalid("disk format %q is neither raw nor blank", d.Format)
		}
		files[d.File], serials[d.Serial] = true, true
	}
	for _, s := range m.KeySlots {
		if !isHex(s.HostKeyHash, 32) {
			return invalid("host key hash %q is not 32 bytes in hex", s.HostKeyHash)
		}
		if len(s.Subject) > 1024 {
			return invalid("key slot subject of %d bytes, at most 1024", len(s.Subject))
		}
	}
	return nil
}

func (d *Disk) check() error {
	if !d.Blank() {
		return d.Part.check()
	}
	switch {
	case !form.File.MatchString(d.File):
		return invalid("file %q is not a plain file name", d.File)
	case d.Size <= 0 || d.Size > MaxBlank:
		return invalid("blank disk %q has size %d, wants 1 to %d", d.File, d.Size, int64(MaxBlank))
	case d.SHA256 != "" || d.ReadOnly:
		return invalid("blank disk %q has a digest or is read-only", d.File)
	}
	return nil
}

func (p Part) check() error {
	switch {
	case !form.File.MatchString(p.File):
		return invalid("file %q is not a plain file name", p.File)
	case p.Size <= 0:
		return invalid("file %q has size %d", p.File, p.Size)
	case !isHex(p.SHA256, 32):
		return invalid("digest %q of %s is not SHA-256 in hex", p.SHA256, p.File)
	}
	return nil
}

// isHex tells whether s is n bytes in lower-case hex.
func isHex(s string, n int) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 2*n && s == strings.ToLower(s)
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrManifest, fmt.Sprintf(format, args...))
}
