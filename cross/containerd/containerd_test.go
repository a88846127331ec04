// Package containerd runs sealed guests by Debian's containerd and looks at what
// is left when things die.
package containerd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/bundle/artifact"
	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/hostkey/hostkeytest"
	"github.com/secexec/secexec/kernel"
	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/sealed"
)

// lab is what all tests share: programs, an emulated host and images.
var lab struct {
	dir   string
	cache string
	skip  string // why nothing can run here
	once  sync.Once
	fail  error
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		lab.cache = os.Getenv("SECEXEC_CACHE")
		if lab.cache == "" {
			lab.cache = "../../.cache"
		}
		dir, err := os.MkdirTemp("", "secexec-containerd-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		lab.dir, lab.skip = dir, missing(dir)
		return m.Run()
	}())
}

// missing says why nothing can run here.
func missing(dir string) string {
	if _, err := os.Stat(filepath.Join(lab.cache, "kernel/vmlinuz")); err != nil {
		return "no s390x kernel in " + lab.cache + ": run cross/setup.sh"
	}
	for _, program := range []string{"qemu-system-s390x", "containerd", "ctr"} {
		if _, err := exec.LookPath(program); err != nil {
			return "no " + program + ": run cross/setup.sh"
		}
	}
	if os.Geteuid() != 0 {
		return "containerd wants root"
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return "containerd's root file systems can't be mounted: " + err.Error()
	}
	if err := unix.Unmount(dir, 0); err != nil {
		return err.Error()
	}
	return ""
}

// need skips a test where nothing can run, and builds what all need.
func need(t *testing.T) {
	t.Helper()
	if lab.skip != "" {
		t.Skip(lab.skip)
	}
	lab.once.Do(func() { lab.fail = prepare() })
	if lab.fail != nil {
		t.Fatal(lab.fail)
	}
}

// prepare builds the programs, an emulated host and three bundles: of guests that
// wait, of guests that fail, and of guests that serve on their pod's network.
func prepare() error {
	for _, b := range [][]string{
		{runtime.GOARCH, "hostagent", "../../hostagent"}, {runtime.GOARCH, "containerd-shim-secexec-v2", "../../shim"},
		{"s390x", "guestinit", "../../guestinit"}, {"s390x", "guestagent", "../../guestagent"}, {"s390x", "root/bin/guest", "./guest"},
	} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(lab.dir, b[1]), b[2])
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+b[0])
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", b[1], err, out)
		}
	}
	if _, err := hostkeytest.WriteHost(filepath.Join(lab.dir, "host"), "host"); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(lab.dir, "host/host.crt"))
	if err != nil {
		return err
	}
	doc, _, err := hostkey.Parse(text)
	if err != nil {
		return err
	}
	for _, name := range []string{"wait", "fail", "serve"} {
		var network *sealed.Network
		if name == "serve" {
			network = &sealed.Network{Source: sealed.Host}
		}
		if _, err := owner.Build(context.Background(), owner.Plan{
			Name: name, Kernel: kernel.Source{Kernel: []string{filepath.Join(lab.cache, "kernel/vmlinuz")}, Modules: []string{filepath.Join(lab.cache, "kernel/modules")}},
			Root: owner.FileSystem{Source: filepath.Join(lab.dir, "root"), Size: 16 << 20}, GuestDir: lab.dir, MemoryMiB: 256,
			Workload: &owner.Workload{Entrypoint: []string{"/bin/guest", name}, Network: network, NoNetwork: network == nil},
			Hosts:    []*hostkey.Document{doc}, Bundle: filepath.Join(lab.dir, name), Secrets: filepath.Join(lab.dir, name+"-secrets"),
		}); err != nil {
			return err
		}
	}
	return nil
}

// image writes an archive of a bundle's container image, and returns its path and
// name.
func image(t *testing.T, name string) (path, ref string) {
	t.Helper()
	b, err := bundle.Open(filepath.Join(lab.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	path, ref = filepath.Join(t.TempDir(), name+".tar"), "secexec.test/"+name+":latest"
	to, err := artifact.Open(t.Context(), "oci-archive:"+path+":"+ref, artifact.Access{}, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := artifact.Push(t.Context(), b, to, artifact.Options{Image: true}); err != nil {
		t.Fatal(err)
	}
	return path, ref
}
