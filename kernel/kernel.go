// Package kernel finds an s390x Linux kernel, its modules and its
// configuration where people have them: a raw image and a folder of modules, an
// installed system of any distribution, Debian or RPM packages; and says
// whether the kernel can be an SE guest.
//
// Packages are read without dpkg and rpm and are not installed: none of their
// programs runs. Their origin is not checked here; what fetches packages (apt,
// dnf, zypper) does that. All that is in them counts as hostile: sizes, numbers
// and paths are bounded, and their files go to a temporary file without a name.
// A folder's symbolic links are followed inside the folder only, so that
// another system's links to absolute paths can't lead into this one.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Sentinels for what callers branch on.
var (
	// ErrPackage is wrapped by errors about a package that is none, is for
	// other machines, or is hostile.
	ErrPackage = errors.New("not a usable package")
	// ErrSeveral is wrapped by errors about a source with several kernels and
	// no release to choose by.
	ErrSeveral = errors.New("several kernels")
	// ErrNoKernel is wrapped by errors about a source without a kernel, or
	// without the one asked for.
	ErrNoKernel = errors.New("no such kernel")
	// ErrModules is wrapped by errors about modules that are not the kernel's.
	ErrModules = errors.New("no modules of this kernel")
)

// Source says where a kernel is.
type Source struct {
	// Kernel is one raw image, one folder (an installed system, its /boot, a
	// package unpacked), or packages, .deb or .rpm.
	Kernel []string
	// Modules is one folder (a system, lib/modules, a release's folder in it)
	// or packages. Empty: what Kernel's folder or packages have.
	Modules []string
	// Release, as `uname -r` prints it, picks one of several kernels.
	Release string
}

// Kernel is a kernel that was found. Close it after use of Image and Modules.
type Kernel struct {
	Release     string            // "" where an old image does not tell and there are no modules
	Image       *io.SectionReader // the raw image
	ImageFrom   string            // its path, and the folder or packages it is in
	Modules     fs.FS             // what is below lib/modules/RELEASE, or nil
	ModulesFrom string
	Config      []byte // its configuration beside it or in its package, or nil
	ConfigFrom  string

	closers []io.Closer
}

// Close frees what Open opened.
func (k *Kernel) Close() error {
	var errs []error
	for _, c := range k.closers {
		errs = append(errs, c.Close())
	}
	k.closers = nil
	return errors.Join(errs...)
}

// Open finds a kernel. Modules of another release than the image's are
// refused; no modules at all are not.
func Open(ctx context.Context, src Source) (*Kernel, error) {
	k := &Kernel{}
	if err := k.open(ctx, src); err != nil {
		k.Close()
		return nil, fmt.Errorf("open kernel: %w", err)
	}
	return k, nil
}

func (k *Kernel) open(ctx context.Context, src Source) error {
	if len(src.Kernel) == 0 {
		return fmt.Errorf("%w: name an image, a folder or packages", ErrNoKernel)
	}
	t, err := k.tree(ctx, src.Kernel)
	if err != nil {
		return err
	}
	image, err := t.pick(src.Release)
	if err != nil {
		return err
	}
	f, err := t.fsys.Open(image.path)
	if err != nil {
		return err
	}
	k.closers = append(k.closers, f)
	r, size, err := readerAt(f)
	if err != nil {
		return fmt.Errorf("%s: %w", image.path, err)
	}
	k.Release, k.Image, k.ImageFrom = image.release, io.NewSectionReader(r, 0, size), t.describe(image.path)

	modules := t
	if len(src.Modules) > 0 {
		if modules, err = k.tree(ctx, src.Modules); err != nil {
			return err
		}
		if modules.image != "" {
			return fmt.Errorf("%w: %s is a file; name a folder or packages", ErrModules, modules.name)
		}
	}
	if modules.image == "" {
		if err := k.findModules(modules, len(src.Modules) > 0); err != nil {
			return err
		}
	}
	for _, place := range []*tree{t, modules} {
		if k.Config == nil {
			var from string
			if k.Config, from = findConfig(place.fsys, k.Release, image.path); from != "" {
				k.ConfigFrom = place.describe(from)
			}
		}
	}
	return nil
}

// findModules takes the kernel's tree of those that are there. A kernel that
// does not tell its release takes the only one.
func (k *Kernel) findModules(t *tree, must bool) error {
	found, err := findModules(t.fsys, t.self)
	if err != nil {
		return fmt.Errorf("find modules in %s: %w", t.name, err)
	}
	dir, ok := found[k.Release]
	if !ok && len(found) == 1 {
		for release, only := range found {
			// A folder that was named itself and is called something else.
			if ok = k.Release == "" || only == "." && !plainRelease(release); ok {
				dir = only
			}
			if k.Release == "" {
				k.Release = release
			}
		}
	}
	if !ok {
		switch {
		case !must && k.Release != "":
			return nil
		case len(found) == 0:
			return fmt.Errorf("%w: %s has no lib/modules/%s", ErrModules, t.name, k.Release)
		case k.Release == "":
			return fmt.Errorf("%w: the image does not tell its release, and %s has modules of %s: name one release", ErrModules, t.name, list(slices.Sorted(maps.Keys(found))))
		}
		return fmt.Errorf("%w: the kernel is %s, and %s has modules of %s", ErrModules, k.Release, t.name, list(slices.Sorted(maps.Keys(found))))
	}
	k.ModulesFrom = t.describe(dir)
	k.Modules, err = fs.Sub(t.fsys, dir)
	return err
}

// tree is a place where a kernel's files are.
type tree struct {
	fsys  fs.FS
	name  string // as the user gave it
	self  string // the folder's own name
	image string // for a raw image: its file's name in fsys
}

// tree opens a folder, packages, or the folder of a raw image.
func (k *Kernel) tree(ctx context.Context, paths []string) (*tree, error) {
	name := strings.Join(paths, ", ")
	info, err := os.Stat(paths[0])
	if err != nil {
		return nil, err
	}
	switch {
	case info.IsDir() && len(paths) == 1:
		abs, err := filepath.Abs(paths[0])
		if err != nil {
			return nil, err
		}
		return k.folder(paths[0], &tree{name: name, self: filepath.Base(abs)})
	case info.IsDir():
		return nil, fmt.Errorf("%s is a folder: name it alone", paths[0])
	}
	kind, err := packageKind(paths[0])
	if err != nil {
		return nil, err
	}
	if kind == nil && len(paths) == 1 {
		// The folder is opened for the configuration that may be beside it.
		resolved, err := filepath.EvalSymlinks(paths[0])
		if err != nil {
			return nil, err
		}
		return k.folder(filepath.Dir(resolved), &tree{name: name, image: filepath.Base(resolved)})
	}
	s, err := newSpool()
	if err != nil {
		return nil, err
	}
	k.closers = append(k.closers, s)
	for _, p := range paths {
		if err := s.unpack(ctx, p); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", p, err)
		}
	}
	return &tree{fsys: s, name: name}, s.index()
}

func (k *Kernel) folder(path string, t *tree) (*tree, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	k.closers = append(k.closers, root)
	t.fsys = root.FS()
	return t, nil
}

// describe says where a file of the tree is.
func (t *tree) describe(file string) string {
	switch {
	case file == t.image || file == ".":
		return t.name
	case t.image != "":
		return filepath.Join(filepath.Dir(t.name), file)
	case t.self != "":
		return filepath.Join(t.name, file)
	}
	return file + " in " + t.name
}

// pick finds the kernel of a release, or the only one.
func (t *tree) pick(release string) (imageFile, error) {
	if t.image != "" {
		got, err := releaseOf(t.fsys, t.image)
		if err != nil {
			return imageFile{}, fmt.Errorf("%s: %w", t.name, err)
		}
		if release != "" && got != "" && got != release {
			return imageFile{}, fmt.Errorf("%w: %s is %s, not %s", ErrNoKernel, t.name, got, release)
		}
		if got == "" {
			got = release
		}
		return imageFile{t.image, got}, nil
	}
	images, err := findImages(t.fsys)
	if err != nil {
		return imageFile{}, fmt.Errorf("%w in %s: %w", ErrNoKernel, t.name, err)
	}
	var releases []string
	for _, image := range images {
		if image.release == release && release != "" {
			return image, nil
		}
		releases = append(releases, image.release)
	}
	switch {
	case release != "":
		return imageFile{}, fmt.Errorf("%w: %s has %s, not %s", ErrNoKernel, t.name, list(releases), release)
	case len(images) > 1:
		return imageFile{}, fmt.Errorf("%w in %s: %s: name one's release", ErrSeveral, t.name, list(releases))
	}
	return images[0], nil
}

// list joins releases for a message, some of many.
func list(releases []string) string {
	const most = 8
	if len(releases) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(releases[:most], ", "), len(releases)-most)
	}
	return strings.Join(releases, ", ")
}

// packageKind tells by a file's first bytes which package it is; nil for none.
func packageKind(path string) (func(context.Context, io.Reader, *spool) error, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // a pipe would block
		return nil, fmt.Errorf("%s is neither a file nor a folder", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var magic [len(arMagic)]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, err
	}
	switch {
	case string(magic[:]) == arMagic:
		return readDeb, nil
	case string(magic[:len(rpmMagic)]) == rpmMagic:
		return readRPM, nil
	}
	return nil, nil
}

// unpack takes a package's files.
func (s *spool) unpack(ctx context.Context, path string) error {
	read, err := packageKind(path)
	if err != nil {
		return err
	}
	if read == nil {
		return fmt.Errorf("%w: neither a Debian nor an RPM package", ErrPackage)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return read(ctx, f, s)
}
