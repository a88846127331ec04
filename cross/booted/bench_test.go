package booted

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/cpio"
	"github.com/secexec/secexec/initrd"
)

// benchPatience bounds a plain machine's life.
const benchPatience = 5 * time.Minute

// onBench runs tests of packages, by folder and expression, on a plain s390x
// machine whose kernel has these modules, and returns what they say. It is for
// what the machine under the tests may not have.
func onBench(t *testing.T, modules []string, tests map[string]string) string {
	t.Helper()
	if lab.skip != "" {
		t.Skip(lab.skip)
	}
	dir := t.TempDir()
	archive := filepath.Join(dir, "initrd")
	if err := benchInitrd(t.Context(), dir, archive, modules, tests); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), benchPatience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "qemu-system-s390x", "-nodefaults", "-display", "none", "-no-reboot",
		"-machine", "s390-ccw-virtio", "-accel", "tcg", "-cpu", "max", "-m", "512",
		"-chardev", "stdio,id=console", "-device", "sclpconsole,chardev=console",
		"-kernel", filepath.Join(lab.cache, "kernel/vmlinuz"), "-initrd", archive, "-append", "quiet panic=-1").CombinedOutput()
	if err != nil {
		t.Fatalf("run QEMU: %v\n%s", err, out)
	}
	return strings.ReplaceAll(string(out), "\r", "")
}

// benchInitrd packs testbench, the modules and the tests.
func benchInitrd(ctx context.Context, dir, path string, modules []string, tests map[string]string) error {
	found, err := filepath.Glob(filepath.Join(lab.cache, "kernel/modules/lib/modules/*"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("find kernel modules: %v %v", found, err)
	}
	tree, err := initrd.OpenTree(os.DirFS(found[0]), filepath.Base(found[0]))
	if err != nil {
		return err
	}
	var want []initrd.Wanted
	for _, m := range modules {
		want = append(want, initrd.Wanted{Name: m})
	}
	closure, err := tree.Closure(want)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	w, inode := cpio.NewWriter(&out), uint32(0)
	add := func(name string, mode uint32, content []byte) error {
		inode++
		return w.Add(cpio.Header{Name: name, Mode: mode, Inode: inode, Links: 1}, content)
	}
	for _, folder := range []string{"dev", "modules", "proc", "sys", "tests", "tmp"} {
		if err := add(folder, cpio.Folder|0o755, nil); err != nil {
			return err
		}
	}
	for i, m := range closure {
		content, err := tree.Load(m)
		if err == nil {
			err = add(fmt.Sprintf("modules/%02d-%s.ko", i, m.File), cpio.Regular|0o644, content)
		}
		if err != nil {
			return err
		}
	}
	program := func(name, folder string, how ...string) error {
		file := filepath.Join(dir, filepath.Base(name))
		cmd := exec.CommandContext(ctx, "go", append(how, "-trimpath", "-ldflags", "-s -w", "-o", file, folder)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=s390x")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", cmd.Args, err, text)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return add(name, cpio.Regular|0o755, content)
	}
	if err := program("init", "./testbench", "build"); err != nil {
		return err
	}
	for folder, run := range tests {
		name := "tests/" + filepath.Base(folder) + ".test"
		if err := program(name, folder, "test", "-c"); err != nil {
			return err
		}
		if err := add(name+".args", cpio.Regular|0o644, []byte("-test.v -test.run "+run)); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o600)
}
