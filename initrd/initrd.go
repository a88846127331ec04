// Package initrd packs the initial RAM disk of a sealed guest: guestinit,
// guestagent, the sealed record and the kernel modules between them and the
// root file system. Nothing else is in it: no shell, no library, no tool.
//
// The same inputs give the same bytes: files are sorted, times are zero, inode
// numbers count up, owners are root.
//
//	/init             0755  guestinit, the kernel's PID 1
//	/guestagent       0755
//	/sealed.record    0400  all that guestinit believes; see package sealed
//	/modules/NN-NAME.ko     kernel modules, uncompressed, in load order
//	/templates/NAME   0400  empty file systems of volumes with a fresh key
//	/dev /proc /sys /run /newroot   empty folders
//
// Modules keep the distribution's signature. The kernel checks it at each
// load, which is the largest cost of a start (0.1 s a module under emulation),
// but without it a kernel that runs with module.sig_enforce loads nothing.
package initrd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"github.com/secexec/secexec/compressed"
	"github.com/secexec/secexec/cpio"
	"github.com/secexec/secexec/sealed"
)

// Plan says what goes into an initrd.
type Plan struct {
	Tree  *Tree    // the kernel's modules
	Want  []Wanted // what Needs gives
	Init  string   // guestinit, a file
	Agent string   // guestagent, a file

	// Record is complete but for its Modules, which Write fills in. It stays
	// its owner's to wipe.
	Record *sealed.Record

	// Templates are the file systems that the record's volumes name (package
	// template).
	Templates map[string][]byte

	// Strip cuts the modules' signatures off. Guests start faster without them
	// (see the package's comment), and the sealed image vouches for modules
	// anyway; a kernel that enforces signatures refuses modules without.
	Strip bool
}

// MaxProgram bounds guestinit and guestagent, in bytes.
const MaxProgram = 64 << 20

// ErrNotS390x is wrapped by errors about a program or module that is not for
// 64-bit s390x.
var ErrNotS390x = errors.New("not an s390x ELF file")

// entry is one thing in the initrd. Load is called when its turn comes, so
// that only one module is in memory at a time.
type entry struct {
	path string
	mode uint32
	load func() ([]byte, error) // nil: a folder
	wipe bool                   // what load gives is secret
}

// Write writes the initrd, an uncompressed cpio archive, to w. The bytes hold
// the volume key in plain text: they belong into a sealed image and nowhere
// else.
func Write(ctx context.Context, w io.Writer, p Plan) error {
	modules, err := p.Tree.Closure(p.Want)
	if err != nil {
		return err
	}
	if len(modules) > sealed.MaxModules {
		return fmt.Errorf("plan initrd: %d kernel modules, at most %d", len(modules), sealed.MaxModules)
	}
	entries := []entry{
		{path: "init", mode: cpio.Regular | 0o755, load: program(p.Init)},
		{path: "guestagent", mode: cpio.Regular | 0o755, load: program(p.Agent)},
		{path: "sealed.record", mode: cpio.Regular | 0o400, wipe: true, load: func() ([]byte, error) {
			b, err := p.Record.Marshal()
			return b, err
		}},
	}
	for _, dir := range []string{"dev", "modules", "newroot", "proc", "run", "sys"} {
		entries = append(entries, entry{path: dir, mode: cpio.Folder | 0o755})
	}
	if len(p.Templates) > 0 {
		entries = append(entries, entry{path: "templates", mode: cpio.Folder | 0o755})
	}
	for name, content := range p.Templates {
		entries = append(entries, entry{path: "templates/" + name, mode: cpio.Regular | 0o400, load: func() ([]byte, error) { return content, nil }})
	}
	p.Record.Modules = make([]sealed.Module, 0, len(modules))
	for i, m := range modules {
		file := fmt.Sprintf("%02d-%s.ko", i, m.File)
		p.Record.Modules = append(p.Record.Modules, sealed.Module{File: file, Optional: m.Optional})
		entries = append(entries, entry{path: "modules/" + file, mode: cpio.Regular | 0o400, load: func() ([]byte, error) { return load(p.Tree, m, p.Strip) }})
	}
	return archive(ctx, w, entries)
}

func load(tree *Tree, m Module, strip bool) ([]byte, error) {
	content, err := tree.Load(m)
	if err != nil || !strip {
		return content, err
	}
	if content, err = stripSignature(content); err != nil {
		return nil, fmt.Errorf("strip module %s: %w", m.File, err)
	}
	return content, nil
}

func archive(ctx context.Context, w io.Writer, entries []entry) error {
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.path, b.path) })
	out := cpio.NewWriter(w)
	for i, e := range entries {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("write initrd: %w", err)
		}
		var content []byte
		if e.load != nil {
			var err error
			if content, err = e.load(); err != nil {
				return fmt.Errorf("pack /%s: %w", e.path, err)
			}
		}
		// All that would differ from build to build is fixed: inodes count up
		// from 1, owner, time and device are 0.
		h := cpio.Header{Name: e.path, Mode: e.mode, Inode: uint32(i + 1), Links: 1}
		if e.load == nil {
			h.Links = 2
		}
		err := out.Add(h, content)
		if e.wipe {
			clear(content)
		}
		if err != nil {
			return fmt.Errorf("write initrd: /%s: %w", e.path, err)
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("write initrd: %w", err)
	}
	return nil
}

// program returns a loader of an s390x executable.
func program(path string) func() ([]byte, error) {
	return func() ([]byte, error) {
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // no wait for a pipe's writer
		if err != nil {
			return nil, err
		}
		defer f.Close()
		b, err := compressed.ReadAtMost(f, MaxProgram)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if !isELF(b, elfExec, elfDyn) {
			return nil, fmt.Errorf("read %s: %w", path, ErrNotS390x)
		}
		return b, nil
	}
}
