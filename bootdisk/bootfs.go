package bootdisk

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/secexec/secexec/e2fs"
)

// fsBlock is the file system's block size in bytes.
const fsBlock = 4096

// features are given in full, so that no machine's mke2fs.conf has a say and
// every kernel that can be an SE guest mounts the result.
const features = "none,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,extra_isize"

// A journal is as small as mke2fs makes them, and smaller file systems have none.
const (
	journal  = 4 // MiB
	smallest = 16 * mebi
)

// bootFS is an ext4 file system inside a disk image.
type bootFS struct {
	disk  string // path of the disk image
	start int64  // bytes from its start to the file system
}

// makeBootFS makes an empty file system of a size in bytes. A handful of files
// needs few inodes and a small journal.
func makeBootFS(ctx context.Context, disk string, start, size int64, id GUID) (*bootFS, error) {
	args := []string{"-q", "-F", "-t", "ext4", "-b", strconv.Itoa(fsBlock), "-m", "0", "-N", "64", "-L", "boot", "-U", id.String(), "-O", features,
		"-E", fmt.Sprintf("lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0,offset=%d", start)}
	if size >= smallest {
		args = append(args, "-J", fmt.Sprintf("size=%d", journal))
	}
	_, err := run(ctx, "", "mke2fs", append(args, disk, strconv.FormatInt(size/fsBlock, 10))...)
	if err != nil {
		return nil, fmt.Errorf("make boot file system: %w", err)
	}
	return &bootFS{disk, start}, nil
}

// write copies a file of this machine into the file system's root folder.
func (b *bootFS) write(ctx context.Context, from, name string) error {
	if strings.ContainsAny(from, "\n\r") {
		return fmt.Errorf("write %s: its path %q holds a line feed", name, from)
	}
	out, err := b.debugfs(ctx, "-w", fmt.Sprintf("write %s %s\nsif %s mode 0100644\nsif %s uid 0\nsif %s gid 0\n",
		e2fs.Quote(from), e2fs.Quote(name), e2fs.Quote(name), e2fs.Quote(name), e2fs.Quote(name)))
	if err == nil {
		err = silent(out)
	}
	if err != nil {
		if strings.Contains(out, "Could not allocate") || strings.Contains(out, "No space left") {
			return fmt.Errorf("write %s: the boot partition is too small: %w", name, err)
		}
		return fmt.Errorf("write %s to boot partition: %w", name, err)
	}
	return nil
}

// runs returns where a file of size bytes lies on the disk: what is no extent of
// it is a hole, and its Block is 0. Blocks are of BlockSize.
func (b *bootFS) runs(ctx context.Context, name string, size int64) ([]Run, error) {
	out, err := b.debugfs(ctx, "", fmt.Sprintf("dump_extents -l %s\n", e2fs.Quote(name)))
	if err != nil {
		return nil, fmt.Errorf("find %s on boot partition: %w", name, err)
	}
	runs, err := parseExtents(out, b.start/BlockSize, (size+BlockSize-1)/BlockSize)
	if err != nil {
		return nil, fmt.Errorf("find %s on boot partition: %w", name, err)
	}
	return runs, nil
}

// ErrExtents says that debugfs's list of extents is not what it prints.
var ErrExtents = errors.New("unexpected list of extents")

// parseExtents parses debugfs's dump_extents, whose leaf rows are
//
//	level/levels entry/entries logical-logical physical-physical length [Uninit]
//
// in blocks of the file system. first is where that starts, blocks the file's
// length, both in blocks of BlockSize.
func parseExtents(text string, first, blocks int64) ([]Run, error) {
	const per = fsBlock / BlockSize
	var runs []Run
	at := int64(0)
	add := func(block, n int64) {
		if n = min(n, blocks-at); n > 0 {
			runs = append(runs, Run{block, n})
			at += n
		}
	}
	for line := range strings.Lines(text) {
		fields := strings.Fields(strings.NewReplacer("/", " ", "-", " ").Replace(line))
		var v [9]int64
		if len(fields) < 9 {
			continue
		}
		numbers := true
		for i := range v {
			var err error
			v[i], err = strconv.ParseInt(fields[i], 10, 64)
			numbers = numbers && err == nil
		}
		if !numbers || v[0] != v[1] {
			continue // heading, or an inner node
		}
		logical, end, physical, n := v[4], v[5], v[6], v[8]
		if n != end-logical+1 || logical*per < at || n <= 0 || physical <= 0 {
			return nil, fmt.Errorf("%w: %.100q", ErrExtents, strings.TrimSpace(line))
		}
		add(0, logical*per-at)
		if len(fields) > 9 { // Uninit: reads as zeros
			physical = 0
			add(0, n*per)
			continue
		}
		add(first+physical*per, n*per)
	}
	if len(runs) == 0 {
		return nil, fmt.Errorf("%w: none", ErrExtents)
	}
	add(0, blocks-at)
	return runs, nil
}

// check has e2fsck look at the file system.
func (b *bootFS) check(ctx context.Context) error {
	if _, err := run(ctx, "", "e2fsck", "-fn", b.name()); err != nil {
		return fmt.Errorf("check boot file system: %w", err)
	}
	return nil
}

// exitStatus is a failed program's exit status, 0 if it did not exit.
func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

func (b *bootFS) name() string { return fmt.Sprintf("%s?offset=%d", b.disk, b.start) }

// debugfs runs commands and returns all that was said.
func (b *bootFS) debugfs(ctx context.Context, mode, script string) (string, error) {
	args := []string{"-f", "-", b.name()}
	if mode == "-w" {
		args = append([]string{mode}, args...)
	}
	return run(ctx, script, "debugfs", args...)
}

// silent wants that debugfs did not complain: it exits with 0 whatever its
// commands do. It repeats each command and names the inodes that it allocates.
func silent(out string) error {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "debugfs") && !strings.HasPrefix(line, "Allocated inode:") {
			return fmt.Errorf("%w: debugfs: %s", e2fs.ErrFailed, line)
		}
	}
	return nil
}

// run runs a program of e2fsprogs and returns what it said.
func run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	return e2fs.Call{Program: name, Args: args, Stdin: []byte(stdin)}.Run(ctx)
}
