// Package e2fs runs the programs of e2fsprogs: mke2fs, debugfs, e2fsck.
package e2fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Errors of running a program.
var (
	ErrMissing = errors.New("program is missing")
	ErrFailed  = errors.New("program failed")
)

// Image is the name under which a program finds a Call's image.
const Image = "/proc/self/fd/3"

// Call is one run of a program.
type Call struct {
	Program string
	Args    []string
	Stdin   []byte
	Image   *os.File // an open file that Args name as Image, or nil
	Env     []string // besides a fixed environment, in which no configuration file has a say
	Quiet   bool     // what it says on standard output is dropped
}

// Run runs the program and returns what it said, after an error too.
func (c Call) Run(ctx context.Context) (string, error) {
	path, err := Find(c.Program)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, c.Args...)
	cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "MKE2FS_CONFIG=/dev/null", "E2FSPROGS_LIBMAGIC_SUPPRESS=1", "DEBUGFS_PAGER=cat"}, c.Env...)
	if c.Image != nil {
		cmd.ExtraFiles = []*os.File{c.Image}
	}
	cmd.Stdin = bytes.NewReader(c.Stdin)
	var words bytes.Buffer
	cmd.Stderr = &words
	if !c.Quiet {
		cmd.Stdout = &words
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return words.String(), fmt.Errorf("%w: %s: %w: %.300s", ErrFailed, c.Program, err, strings.TrimSpace(words.String()))
	}
	return words.String(), nil
}

// Quote quotes a word for debugfs (libss): quotes within are doubled. It can't
// hold line feeds.
func Quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// dirs are where programs are looked for besides PATH: users' PATHs often lack
// /usr/sbin.
var dirs = []string{"/usr/sbin", "/sbin"}

// Find finds a program.
func Find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s: install Debian package e2fsprogs", ErrMissing, name)
}
