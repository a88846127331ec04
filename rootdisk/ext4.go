package rootdisk

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// makeExt4 makes a file system of a staged tree in a file without a name, and
// returns it with its size.
//
// mke2fs copies the tree; debugfs then gives each entry the owner, mode, time,
// device number and extended attributes that a user without rights could not
// give the staged copy. e2fsck has the last word.
func makeExt4(ctx context.Context, work string, t *tree, o *Options) (*os.File, int64, error) {
	size := o.Size
	if size == 0 {
		// A quarter more than the content, and room for journal and inode tables.
		need := t.need()
		size = (need+need/4+96*mebi)/mebi*mebi + mebi
	}
	img := filepath.Join(work, "root.ext4")
	f, err := os.OpenFile(img, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("make file system: %w", err)
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("make file system: %w", err)
	}
	err = t.build(ctx, work, img, size, o.Label)
	if e := os.Remove(img); err == nil {
		err = e
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

// features are given in full, so that no machine's mke2fs.conf has a say and
// every kernel that can be an SE guest mounts the result.
const features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// need is the room that the tree takes: content in whole blocks, and folders.
func (t *tree) need() (n int64) {
	seen := make(map[*inode]bool)
	_ = t.each(func(_ string, at *node) error {
		n += 256
		if at.kind() == modeDir {
			n += 4096
		}
		if !seen[at.inode] {
			seen[at.inode] = true
			n += at.stored
		}
		return nil
	})
	return n
}

func (t *tree) build(ctx context.Context, work, img string, size int64, label string) error {
	inodes := max(int64(t.entries)*2, int64(t.entries)+8192, size/(32<<10))
	if out, err := run(ctx, nil, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-I", "256", "-N", fmt.Sprint(inodes), "-L", label,
		"-O", features, "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0", "-d", t.dir, img); err != nil {
		if strings.Contains(out, "Could not allocate") || strings.Contains(out, "No space left") {
			return fmt.Errorf("make file system: %w: %d MiB hold no %d MiB of files: ask for a larger size", ErrOptions, size/mebi, t.need()/mebi)
		}
		return fmt.Errorf("make file system: %w", err)
	}
	script, err := t.script(work)
	if err != nil {
		return err
	}
	out, err := run(ctx, script, "debugfs", "-w", "-f", "-", img)
	if err != nil {
		return fmt.Errorf("set owners: %w", err)
	}
	// debugfs exits with 0 whatever its commands do; all it may say on standard
	// error is its own version.
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "debugfs ") && strings.TrimSpace(line) != "" {
			return fmt.Errorf("set owners: %w: debugfs: %s", ErrTool, strings.TrimSpace(line))
		}
	}
	if _, err := run(ctx, nil, "e2fsck", "-fn", img); err != nil {
		return fmt.Errorf("check file system: %w", err)
	}
	return nil
}

// script returns debugfs's commands for a tree.
func (t *tree) script(work string) ([]byte, error) {
	var s bytes.Buffer
	first := make(map[*inode]string)
	values := 0
	err := t.each(func(name string, n *node) error {
		full := filepath.Join("/", name)
		dir, base := filepath.Split(full)
		if to := first[n.inode]; to != "" { // its first name has all
			if n.special() {
				fmt.Fprintf(&s, "ln %s %s\n", quote(to), quote(full))
			}
			return nil
		}
		first[n.inode] = full
		if n.special() {
			fmt.Fprintf(&s, "cd %s\nmknod %s %s\ncd /\n", quote(dir), quote(base), n.device())
		}
		path := quote(full)
		fmt.Fprintf(&s, "sif %s mode 0%o\nsif %s uid %d\nsif %s gid %d\nsif %s mtime @%d\n",
			path, n.mode, path, n.uid, path, n.gid, path, n.mtime)
		if n.special() && n.links > 1 {
			fmt.Fprintf(&s, "sif %s links_count %d\n", path, n.links)
		}
		for _, x := range n.xattrs {
			value := filepath.Join(work, fmt.Sprintf("xattr-%d", values))
			values++
			if err := os.WriteFile(value, x.value, 0o600); err != nil {
				return fmt.Errorf("set extended attribute: %w", err)
			}
			fmt.Fprintf(&s, "ea_set -f %s %s %s\n", quote(value), path, quote(x.name))
		}
		return nil
	})
	return s.Bytes(), err
}

// device returns debugfs's words for a special file.
func (i *inode) device() string {
	switch i.kind() {
	case modeFIFO:
		return "p"
	case modeBlock:
		return fmt.Sprintf("b %d %d", i.major, i.minor)
	}
	return fmt.Sprintf("c %d %d", i.major, i.minor)
}

// quote quotes a word for debugfs (libss): quotes within are doubled. Names
// with line feeds were refused by stage.
func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// run runs a program of e2fsprogs and returns what it said on standard error.
func run(ctx context.Context, stdin []byte, name string, args ...string) (string, error) {
	path, err := find(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "MKE2FS_CONFIG=/dev/null", "E2FSPROGS_LIBMAGIC_SUPPRESS=1"}
	cmd.Stdin = bytes.NewReader(stdin)
	var words bytes.Buffer
	cmd.Stderr = &words
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return words.String(), fmt.Errorf("%w: %s: %w: %.300s", ErrTool, name, err, strings.TrimSpace(words.String()))
	}
	return words.String(), nil
}

// toolDirs are where programs are looked for besides PATH: users' PATHs often
// lack /usr/sbin.
var toolDirs = []string{"/usr/sbin", "/sbin"}

// find finds a program.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range toolDirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s: install Debian package e2fsprogs", ErrToolMissing, name)
}
