package owner

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/secret"
)

// ErrPrevious says that the build to update can't be used.
var ErrPrevious = errors.New("no build to update")

// About is about.json in the secrets folder: which build the keys belong to,
// and from what its root disk was made.
type About struct {
	Name    string     `json:"name"`
	ImageID string     `json:"image_id"`
	RootID  string     `json:"root_id"`
	Built   string     `json:"built"` // RFC 3339
	Root    *RootAbout `json:"root,omitempty"`
}

// RootAbout tells whether the next build may take the root disk as it is. The
// digest is the owner's own: the one in the bundle has been to the provider.
type RootAbout struct {
	Fingerprint string `json:"fingerprint"` // of the source and its options, "" where it has none
	SHA256      string `json:"sha256"`      // of root.img
	Offset      int64  `json:"payload_offset"`
	Size        int64  `json:"payload_size"`
}

// previous is the build that an update starts from.
type previous struct {
	bundle  string // its folders
	secrets string
	about   About
}

const maxAbout = 64 << 10

// openPrevious opens the build to update. It returns nil when there is none
// and both folders are to be made.
func openPrevious(bundleDir, secretsDir string) (*previous, error) {
	_, errB := os.Lstat(bundleDir)
	_, errS := os.Lstat(secretsDir)
	gone := func(err error) bool { return errors.Is(err, os.ErrNotExist) }
	switch {
	case gone(errB) && gone(errS):
		return nil, nil
	case gone(errS):
		return nil, fmt.Errorf("update %s: %w: its secrets %s are not there", bundleDir, ErrPrevious, secretsDir)
	case gone(errB):
		return nil, fmt.Errorf("update %s: %w: its secrets %s are there, the bundle is not: build without --update into new folders", bundleDir, ErrPrevious, secretsDir)
	}
	p := &previous{bundle: bundleDir, secrets: secretsDir}
	text, err := readFile(filepath.Join(secretsDir, AboutFile), maxAbout)
	if err != nil {
		return nil, fmt.Errorf("update %s: %w: %w", bundleDir, ErrPrevious, err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&p.about); err != nil {
		return nil, fmt.Errorf("update %s: %w: read %s of %s: %w", bundleDir, ErrPrevious, AboutFile, secretsDir, err)
	}
	b, err := bundle.Open(bundleDir)
	if err != nil {
		return nil, fmt.Errorf("update %s: %w: %w", bundleDir, ErrPrevious, err)
	}
	defer b.Close()
	if b.Manifest.Image.ID != p.about.ImageID {
		return nil, fmt.Errorf("update %s: %w: %s holds the secrets of image %s, the bundle is image %s", bundleDir, ErrPrevious, secretsDir, p.about.ImageID, b.Manifest.Image.ID)
	}
	return p, nil
}

// volumeKeys takes over the keys of the root disk. All other keys are new for
// each image. The caller wipes both.
func (p *previous) volumeKeys() (volume, disk secret.Bytes, err error) {
	if volume, err = readFile(filepath.Join(p.secrets, VolumeKeyFile), sealed.KeySize); err != nil {
		return nil, nil, fmt.Errorf("read volume key: %w", err)
	}
	if len(volume) != sealed.KeySize {
		return volume, nil, fmt.Errorf("read volume key: %d bytes, wants %d", len(volume), sealed.KeySize)
	}
	if disk, err = readFile(filepath.Join(p.secrets, DiskKeyFile), 8<<20); err != nil {
		return volume, nil, fmt.Errorf("read key file of the root disk: %w", err)
	}
	return volume, disk, nil
}

// takeRoot links the previous root disk into the new bundle when it is what
// this build would make: made of the same source and options, and unchanged
// since. It returns nil when it is not.
func (p *previous) takeRoot(ctx context.Context, fingerprint string, into *outfile.Dir) (*rootdisk.Volume, error) {
	r := p.about.Root
	id, err := hex.DecodeString(p.about.RootID)
	if r == nil || fingerprint == "" || r.Fingerprint != fingerprint || err != nil || len(id) != 16 {
		return nil, nil
	}
	f, err := os.Open(filepath.Join(p.bundle, rootFile))
	if err != nil {
		return nil, nil // moved away: it is made again
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, nil
	}
	part, err := bundle.Describe(ctx, rootFile, f)
	if err != nil {
		return nil, err
	}
	if part.SHA256 != r.SHA256 || part.Size != r.Offset+r.Size {
		return nil, nil
	}
	if err := into.Link(rootFile, filepath.Join(p.bundle, rootFile)); err != nil {
		return nil, err
	}
	return &rootdisk.Volume{ID: [16]byte(id), Offset: r.Offset, Size: r.Size}, nil
}

// keep copies the previous keys into a folder of the new secrets: guests that
// still run the previous image are verified with them.
func (p *previous) keep(into *outfile.Dir) error {
	if err := into.Mkdir(PreviousDir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{HeaderKeyFile, ImageKeyFile, CommKeyFile, VolumeKeyFile, DiskKeyFile, IdentityFile, IdentityPublic, AboutFile} {
		data, err := readFile(filepath.Join(p.secrets, name), 8<<20)
		if errors.Is(err, os.ErrNotExist) {
			continue // the owner keeps it elsewhere
		}
		if err != nil {
			return fmt.Errorf("keep previous keys: %w", err)
		}
		err = into.WriteFile(filepath.Join(PreviousDir, name), data, 0o600)
		data.Wipe()
		if err != nil {
			return err
		}
	}
	return nil
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int64) (secret.Bytes, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	case info.Size() > limit:
		return nil, fmt.Errorf("%s has %d bytes, at most %d", path, info.Size(), limit)
	}
	data := make(secret.Bytes, info.Size()) // at once: no copies of a key behind
	if _, err := io.ReadFull(f, data); err != nil {
		data.Wipe()
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}
