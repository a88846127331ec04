package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Where distributions put things. Debian, Ubuntu: /boot/vmlinuz-R and
// /boot/config-R. Fedora, RHEL: /lib/modules/R/vmlinuz and config, and copies
// in /boot. SUSE: /usr/lib/modules/R/image and config, and links in /boot.
// Arch-like: /boot/vmlinuz-NAME. The last ones are for a folder that is /boot
// itself, or lib/modules/R itself.
var (
	imagePatterns = []string{
		"boot/vmlinuz-*", "boot/image-*", "boot/bzImage-*", "boot/kernel-*", "boot/vmlinuz", "boot/image", "boot/bzImage",
		"lib/modules/*/vmlinuz", "lib/modules/*/image", "usr/lib/modules/*/vmlinuz", "usr/lib/modules/*/image",
		"vmlinuz-*", "image-*", "bzImage-*", "kernel-*", "vmlinuz", "image", "bzImage",
	}
	moduleFolders  = []string{"lib/modules", "usr/lib/modules", "."}
	configPatterns = []string{"boot/config-R", "lib/modules/R/config", "usr/lib/modules/R/config", "config-R", "R/config", "config"}
)

// maxCandidates bounds the files that are looked into in a folder.
const maxCandidates = 1000

// imageFile is a kernel image in a file system.
type imageFile struct {
	path    string
	release string // "" where neither image nor name tells it
}

// findImages lists the kernels in a file system, one for each release, in the
// order of releases. Files of fitting names that are no s390x kernels are
// passed over; the first one's reason is the error where there are no others.
func findImages(fsys fs.FS) ([]imageFile, error) {
	var found []imageFile
	var not error
	looked := 0
	for _, pattern := range imagePatterns {
		paths, err := fs.Glob(fsys, pattern)
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			if looked++; looked > maxCandidates {
				return nil, fmt.Errorf("more than %d files that could be kernels", maxCandidates)
			}
			release, err := releaseOf(fsys, p)
			if errors.Is(err, fs.ErrNotExist) {
				continue // a link to nowhere, as /boot has them while a kernel is removed
			}
			if err != nil {
				if not == nil {
					not = fmt.Errorf("%s: %w", p, err)
				}
				continue
			}
			if !slices.ContainsFunc(found, func(f imageFile) bool { return f.release == release }) {
				found = append(found, imageFile{p, release})
			}
		}
	}
	if len(found) == 0 {
		return nil, cmp.Or(not, errors.New("no kernel in boot or lib/modules"))
	}
	slices.SortFunc(found, func(a, b imageFile) int { return cmp.Compare(a.release, b.release) })
	return found, nil
}

// releaseOf reads an image's release; an image that does not tell it has the
// one that its name or folder says.
func releaseOf(fsys fs.FS, file string) (string, error) {
	// A pipe must not be opened: that would wait for its other end.
	if info, err := fs.Stat(fsys, file); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", errors.New("not a regular file")
	}
	f, err := fsys.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	r, size, err := readerAt(f)
	if err != nil {
		return "", err
	}
	release, err := imageRelease(r, size)
	if err != nil || release != "" {
		return release, err
	}
	_, name, ok := strings.Cut(path.Base(file), "-")
	if !ok {
		name = path.Base(path.Dir(file))
	}
	if !plainRelease(name) {
		return "", nil
	}
	return name, nil
}

// readerAt returns an open file's content for reading at any place.
func readerAt(f fs.File) (io.ReaderAt, int64, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	r, ok := f.(io.ReaderAt)
	if !ok || !info.Mode().IsRegular() {
		return nil, 0, errors.New("not a regular file")
	}
	return r, info.Size(), nil
}

// findModules lists the releases that a file system has module trees of, with
// the trees' folders. self is the name of the file system's own folder, for one
// that is a tree itself.
func findModules(fsys fs.FS, self string) (map[string]string, error) {
	found := make(map[string]string)
	for _, folder := range moduleFolders {
		entries, err := fs.ReadDir(fsys, folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			dir := path.Join(folder, e.Name())
			if plainRelease(e.Name()) && found[e.Name()] == "" && isTree(fsys, dir) {
				found[e.Name()] = dir
			}
		}
	}
	if len(found) == 0 && isTree(fsys, ".") {
		found[self] = "."
	}
	return found, nil
}

// isTree tells a module tree by what a kernel's build or depmod puts there.
func isTree(fsys fs.FS, dir string) bool {
	for _, name := range []string{"modules.dep", "modules.builtin", "modules.order"} {
		if info, err := fs.Stat(fsys, path.Join(dir, name)); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// findConfig reads the configuration of a kernel; nil where there is none.
// image is where the kernel itself is: a file "config" without a release
// belongs to it only beside it.
func findConfig(fsys fs.FS, release, image string) (config []byte, from string) {
	for _, pattern := range configPatterns {
		name := strings.ReplaceAll(pattern, "R", release)
		if pattern == "config" && path.Dir(image) != "." {
			continue
		}
		if info, err := fs.Stat(fsys, name); err != nil || !info.Mode().IsRegular() {
			continue
		}
		f, err := fsys.Open(name)
		if err != nil {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
		f.Close()
		if err == nil && isConfig(text) {
			return text, name
		}
	}
	return nil, ""
}
