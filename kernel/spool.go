package kernel

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// Limits of what is taken out of packages. Debian's kernel package has 2,800
// entries and 220 MB; Ubuntu's and Fedora's have up to 7,000 and 600 MB.
const (
	maxEntries = 1 << 17
	maxFile    = 512 << 20 // bytes
	maxSpool   = 4 << 30   // bytes of all files kept
	maxContent = 8 << 30   // bytes of a package, unpacked
)

// spool keeps the files of packages that a kernel consists of, in one
// temporary file without a name, so that nothing is left behind however the
// program ends. It is a file system of plain files and their folders.
type spool struct {
	f       *os.File
	size    int64
	entries int
	files   map[string]span
	dirs    map[string][]string // names in each folder, once index was called
}

type span struct{ at, size int64 }

func newSpool() (*spool, error) {
	f, err := os.CreateTemp("", "secexec-kernel-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("unpack kernel: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("unpack kernel: %w", err)
	}
	return &spool{f: f, files: make(map[string]span)}, nil
}

// count is called for each entry of a package, kept or not.
func (s *spool) count() error {
	if s.entries++; s.entries > maxEntries {
		return fmt.Errorf("%w: more than %d entries", ErrPackage, maxEntries)
	}
	return nil
}

// keep tells whether a package's path belongs to a kernel, and under which
// name: what is in /usr/lib/modules is in /lib/modules where /usr is merged.
func keep(name string) (string, bool, error) {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "."), "/")
	name = strings.TrimSuffix(name, "/")
	if name == "" {
		return "", false, nil
	}
	if !fs.ValidPath(name) {
		return "", false, fmt.Errorf("%w: path %q", ErrPackage, name)
	}
	if rest, ok := strings.CutPrefix(name, "usr/lib/modules/"); ok {
		name = "lib/modules/" + rest
	}
	return name, strings.HasPrefix(name, "boot/") || strings.HasPrefix(name, "lib/modules/"), nil
}

// add copies a file of exactly this size from r.
func (s *spool) add(name string, size int64, r io.Reader) error {
	if size < 0 || size > maxFile || s.size+size > maxSpool {
		return fmt.Errorf("%w: %s of %d bytes is over the limit", ErrPackage, name, size)
	}
	n, err := io.Copy(io.NewOffsetWriter(s.f, s.size), io.LimitReader(r, size))
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	if err := s.put(name, span{s.size, size}); err != nil {
		return err
	}
	s.size += size
	return nil
}

// link gives what is kept under one name another.
func (s *spool) link(name, to string) error {
	at, ok := s.files[to]
	if !ok {
		return fmt.Errorf("%w: %s is a hard link to %s, which did not come before it", ErrPackage, name, to)
	}
	return s.put(name, at)
}

func (s *spool) put(name string, at span) error {
	if _, twice := s.files[name]; twice {
		return fmt.Errorf("%w: %s comes twice", ErrPackage, name)
	}
	s.files[name] = at
	return nil
}

// index makes the folders. No file is added after it.
func (s *spool) index() error {
	s.dirs = map[string][]string{".": nil}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		for child := name; child != "."; child = path.Dir(child) {
			dir := path.Dir(child)
			if _, file := s.files[dir]; file {
				return fmt.Errorf("%w: %s is a file and a folder", ErrPackage, dir)
			}
			_, known := s.dirs[dir]
			s.dirs[dir] = append(s.dirs[dir], path.Base(child))
			if known {
				break
			}
		}
	}
	for _, names := range s.dirs {
		slices.Sort(names)
	}
	return nil
}

func (s *spool) Close() error { return s.f.Close() }

// Open opens a file or folder.
func (s *spool) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if at, ok := s.files[name]; ok {
		return &spoolFile{io.NewSectionReader(s.f, at.at, at.size), spoolInfo{path.Base(name), at.size, 0o444}}, nil
	}
	names, ok := s.dirs[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	d := &spoolDir{info: spoolInfo{path.Base(name), 0, fs.ModeDir | 0o555}}
	for _, n := range names {
		info := spoolInfo{n, 0, fs.ModeDir | 0o555}
		if at, file := s.files[path.Join(name, n)]; file {
			info = spoolInfo{n, at.size, 0o444}
		}
		d.left = append(d.left, fs.FileInfoToDirEntry(info))
	}
	return d, nil
}

// spoolFile is an open file. It can be read at any place, too.
type spoolFile struct {
	*io.SectionReader
	info spoolInfo
}

func (f *spoolFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *spoolFile) Close() error               { return nil }

type spoolDir struct {
	info spoolInfo
	left []fs.DirEntry
}

func (d *spoolDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *spoolDir) Close() error               { return nil }
func (d *spoolDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: errors.New("is a folder")}
}

func (d *spoolDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		n = len(d.left)
	} else if len(d.left) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.left))
	out := d.left[:n:n]
	d.left = d.left[n:]
	return out, nil
}

type spoolInfo struct {
	name string
	size int64
	mode fs.FileMode
}

func (i spoolInfo) Name() string       { return i.name }
func (i spoolInfo) Size() int64        { return i.size }
func (i spoolInfo) Mode() fs.FileMode  { return i.mode }
func (i spoolInfo) ModTime() time.Time { return time.Time{} }
func (i spoolInfo) IsDir() bool        { return i.mode.IsDir() }
func (i spoolInfo) Sys() any           { return nil }
