package owner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/secret"
)

// ErrPrevious says that the build to update can't be used.
var ErrPrevious = errors.New("no build to update")

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
	for name := range p.about.Disks {
		if err := bundle.CheckName(name); err != nil { // it becomes a file's name
			return nil, fmt.Errorf("update %s: %w: read %s of %s: %w", bundleDir, ErrPrevious, AboutFile, secretsDir, err)
		}
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

// disk tells what the previous build says of a disk. A nil previous has none.
func (p *previous) disk(name string) (DiskAbout, bool) {
	if p == nil {
		return DiskAbout{}, false
	}
	d, ok := p.about.Disks[name]
	return d, ok
}

// volumeKeys takes over the keys of a disk. All other keys are new for each
// image. The caller wipes both, after an error too.
func (p *previous) volumeKeys(d *disk) (volume, passphrase secret.Bytes, err error) {
	if volume, err = readFile(filepath.Join(p.secrets, d.volumeKeyFile()), int64(keySize(d.fs.Mode))); err != nil {
		return nil, nil, fmt.Errorf("read volume key: %w", err)
	}
	if len(volume) != keySize(d.fs.Mode) {
		return volume, nil, fmt.Errorf("read volume key %s: %d bytes, wants %d", d.volumeKeyFile(), len(volume), keySize(d.fs.Mode))
	}
	if passphrase, err = readFile(filepath.Join(p.secrets, d.passphraseFile()), 8<<20); err != nil {
		return volume, nil, fmt.Errorf("read key file of %s: %w", d.what(), err)
	}
	return volume, passphrase, nil
}

// take links the previous disk into the new bundle when it is what this build
// would make: made of the same source and options, and unchanged since.
func (p *previous) take(ctx context.Context, d *disk, fingerprint string, into *outfile.Dir) (bool, error) {
	before, known := p.disk(d.name)
	if !known || fingerprint == "" || before.Fingerprint != fingerprint {
		return false, nil
	}
	path := filepath.Join(p.bundle, d.file())
	part, err := describeFile(ctx, path)
	if err != nil || part.SHA256 != before.SHA256 || part.Size != before.Offset+before.Size {
		return false, ctx.Err() // moved away or changed: it is made again
	}
	if err := into.Link(d.file(), path); err != nil {
		return false, err
	}
	d.about = before
	return true, nil
}

// bootImage returns the path of the previous boot image where it can stay
// beside the new one on a bootable disk: it is the one that was built, and
// finds each of its disks at its place. "" otherwise.
func (p *previous) bootImage(ctx context.Context, disks []*disk) string {
	if p == nil || len(p.about.Disks) != len(disks) {
		return ""
	}
	for _, d := range disks {
		before, known := p.disk(d.name)
		if !known || before.PartUUID != d.guid.String() || before.Offset != d.about.Offset || before.Size != d.about.Size || before.Mode != d.about.Mode || before.FSType != d.about.FSType || !before.HashTree.is(d.about.HashTree) {
			return ""
		}
	}
	path := filepath.Join(p.bundle, imageFile)
	if part, err := describeFile(ctx, path); err != nil || part.SHA256 != p.about.ImageSHA256 {
		return ""
	}
	return path
}

// describeFile measures a regular file.
func describeFile(ctx context.Context, path string) (bundle.Part, error) {
	f, err := openRegular(path)
	if err != nil {
		return bundle.Part{}, err
	}
	defer f.Close()
	return bundle.Describe(ctx, filepath.Base(path), f)
}

// openRegular opens a regular file and nothing else; it waits for no pipe.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// keep copies the previous keys into a folder of the new secrets: guests that
// still run the previous image are verified with them.
func (p *previous) keep(into *outfile.Dir) error {
	if err := into.Mkdir(PreviousDir, 0o700); err != nil {
		return err
	}
	names := []string{HeaderKeyFile, ImageKeyFile, CommKeyFile, IdentityFile, IdentityPublic, AboutFile}
	for name := range p.about.Disks {
		d := disk{name: name}
		names = append(names, d.volumeKeyFile(), d.passphraseFile())
	}
	for _, name := range names {
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
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
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
