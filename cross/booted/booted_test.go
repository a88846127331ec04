// Package booted boots sealed guests under emulation and looks at what they and
// their host do. It wants QEMU and what cross/setup.sh fetches.
package booted

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/hostkey/hostkeytest"
	"github.com/secexec/secexec/kernel"
	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// lab is what all tests share: programs, emulated hosts and a small bundle.
var lab struct {
	dir   string
	cache string
	skip  string // why nothing can boot here
	small func() (string, error)
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		lab.cache = os.Getenv("SECEXEC_CACHE")
		if lab.cache == "" {
			lab.cache = "../../.cache"
		}
		if _, err := os.Stat(filepath.Join(lab.cache, "kernel/vmlinuz")); err != nil {
			lab.skip = "no s390x kernel in " + lab.cache + ": run cross/setup.sh"
		} else if _, err := exec.LookPath("qemu-system-s390x"); err != nil {
			lab.skip = "no qemu-system-s390x: run cross/setup.sh"
		}
		dir, err := os.MkdirTemp("", "secexec-booted-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		lab.dir = dir
		lab.small = sync.OnceValues(func() (string, error) {
			root := filepath.Join(dir, "small-root")
			if err := os.MkdirAll(filepath.Join(root, "sbin"), 0o755); err != nil {
				return "", err
			}
			if err := os.Rename(filepath.Join(dir, "testinit"), filepath.Join(root, "sbin/init")); err != nil {
				return "", err
			}
			return build("small", root, "host-a", 256)
		})
		if lab.skip == "" {
			if err := prepare(); err != nil {
				fmt.Fprintln(os.Stderr, "prepare booted tests:", err)
				return 1
			}
		}
		return m.Run()
	}())
}

// prepare builds the programs and makes two emulated hosts.
func prepare() error {
	for _, b := range [][]string{
		{"native", "hostagent", "../../hostagent"}, {"native", "secexec", "../../cmd/secexec"},
		{"s390x", "guestinit", "../../guestinit"}, {"s390x", "guestagent", "../../guestagent"}, {"s390x", "testinit", "./testinit"}, {"s390x", "testapp", "./testapp"},
	} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(lab.dir, b[1]), b[2])
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if b[0] == "s390x" {
			cmd.Env = append(cmd.Env, "GOARCH=s390x")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", b[1], err, out)
		}
	}
	for _, host := range []string{"host-a", "host-b"} {
		if _, err := hostkeytest.WriteHost(filepath.Join(lab.dir, host), host); err != nil {
			return err
		}
	}
	return nil
}

// plan says how to build a bundle in the lab, and its secrets beside it.
func plan(name, root, host string, memory int) (owner.Plan, error) {
	text, err := os.ReadFile(filepath.Join(lab.dir, host, "host.crt"))
	if err != nil {
		return owner.Plan{}, err
	}
	doc, _, err := hostkey.Parse(text)
	if err != nil {
		return owner.Plan{}, err
	}
	out := filepath.Join(lab.dir, name)
	return owner.Plan{
		Name: name, Kernel: kernel.Source{Kernel: []string{filepath.Join(lab.cache, "kernel/vmlinuz")}, Modules: []string{filepath.Join(lab.cache, "kernel/modules")}},
		Root: owner.FileSystem{Source: root}, GuestDir: lab.dir, Init: "/sbin/init", StopSignal: 38, MemoryMiB: memory,
		Hosts: []*hostkey.Document{doc}, Bundle: out, Secrets: out + "-secrets",
	}, nil
}

// build builds a bundle in the lab.
func build(name, root, host string, memory int) (string, error) {
	p, err := plan(name, root, host, memory)
	if err != nil {
		return "", err
	}
	_, err = owner.Build(context.Background(), p)
	return p.Bundle, err
}

// small returns the small bundle, whose init is testinit.
func small(t *testing.T) string {
	t.Helper()
	if lab.skip != "" {
		t.Skip(lab.skip)
	}
	b, err := lab.small()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// makeRoot makes a root with testinit as its init and files by their paths; a
// path with a slash at its end is a folder. testinit is copied: a link would
// change the file's status while another test's build reads it.
func makeRoot(root string, files map[string]string) error {
	text, err := os.ReadFile(filepath.Join(lab.dir, "small-root/sbin/init"))
	if err != nil {
		return err
	}
	for _, dir := range []string{"dev", "proc", "run", "sbin", "srv", "sys"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	for name, content := range files {
		if dir, ok := strings.CutSuffix(name, "/"); ok {
			err = os.MkdirAll(filepath.Join(root, dir), 0o755)
		} else {
			err = os.WriteFile(filepath.Join(root, name), []byte(content), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(root, "sbin/init"), text, 0o755)
}

// copyBundle copies a bundle, for a test to spoil.
func copyBundle(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(from))
	if out, err := exec.Command("cp", "-r", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return to
}

// cover makes a bundle's manifest fit a changed file, as an operator who cheats
// would.
func cover(t *testing.T, bundle, original, file string) {
	t.Helper()
	manifest := filepath.Join(bundle, "bundle.json")
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{original, bundle} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		if dir == original {
			text = bytes.Replace(text, []byte(hex.EncodeToString(sum[:])), []byte("DIGEST"), 1)
			text = bytes.Replace(text, fmt.Appendf(nil, `"size": %d`, len(data)), []byte(`"size": SIZE`), 1)
		} else {
			text = bytes.Replace(text, []byte("DIGEST"), []byte(hex.EncodeToString(sum[:])), 1)
			text = bytes.Replace(text, []byte("SIZE"), fmt.Append(nil, len(data)), 1)
		}
	}
	if err := os.WriteFile(manifest, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// node is a hostagent of a test's own.
type node struct {
	t    *testing.T
	dir  string // short: it holds sockets
	args []string
	cmd  *exec.Cmd
	c    *client.Client
}

// newNode starts a hostagent on host-a. At the test's end it is ended and
// nothing of it may be left.
func newNode(t *testing.T, args ...string) *node {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "node-")
	if err != nil {
		if dir, err = os.MkdirTemp("", "node-"); err != nil {
			t.Fatal(err)
		}
	}
	n := &node{t: t, dir: dir, args: args}
	n.start()
	t.Cleanup(n.end)
	return n
}

func (n *node) start() {
	n.t.Helper()
	log, err := os.OpenFile(n.path("hostagent.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	n.cmd = exec.Command(filepath.Join(lab.dir, "hostagent"), append([]string{
		"--platform", "emulated", "--emulated-host", filepath.Join(lab.dir, "host-a"),
		"--state", n.path("state"), "--runtime", n.path("run"), "--socket", n.path("sock"),
	}, n.args...)...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		// A call, too: a child of a killed hostagent, just forked, may hold the
		// old socket open for a moment.
		if n.c, err = client.Dial(n.t.Context(), n.path("sock"), nil); err == nil {
			if _, err = n.c.List(n.t.Context()); err == nil {
				return
			}
			n.c.Close()
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%v\n%s", err, n.log())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// with is the node as a test within the node's test uses it.
func (n *node) with(t *testing.T) *node {
	m := *n
	m.t = t
	return &m
}

// kill ends hostagent with SIGKILL.
func (n *node) kill() {
	n.t.Helper()
	n.c.Close()
	if err := n.cmd.Process.Kill(); err != nil {
		n.t.Fatal(err)
	}
	n.cmd.Wait()
}

func (n *node) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if guests, err := n.c.List(ctx); err == nil {
		for _, g := range guests {
			_, _ = n.c.Kill(ctx, g.Name)
		}
	}
	n.c.Close()
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	if err := n.cmd.Wait(); err != nil {
		n.t.Errorf("hostagent ended with %v\n%s", err, n.log())
	}
	for _, pid := range n.processes() {
		n.t.Errorf("process %d of the node is left", pid)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if n.t.Failed() {
		n.t.Logf("hostagent's log:\n%s", n.log())
	}
	os.RemoveAll(n.dir)
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) log() string {
	text, _ := os.ReadFile(n.path("hostagent.log"))
	return string(text)
}

// processes lists living processes whose arguments name the node's folder.
func (n *node) processes() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if strings.Contains(string(cmdline), n.dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// launch creates and starts a guest.
func (n *node) launch(bundle, name string) error {
	if _, err := n.c.Create(n.t.Context(), &hostagentv1.CreateRequest{Bundle: bundle, Name: name}); err != nil {
		return err
	}
	_, err := n.c.Start(n.t.Context(), name, "")
	return err
}

// until waits for a guest to satisfy a condition.
func (n *node) until(name string, what string, ok func(*hostagentv1.Guest) bool) *hostagentv1.Guest {
	n.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		g, err := n.c.Get(n.t.Context(), name)
		if err != nil {
			n.t.Fatalf("wait until %s is %s: %v", name, what, err)
		}
		if ok(g) {
			return g
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%s is not %s but %v\nconsole:\n%s", name, what, g, n.console(name))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// settled waits until a guest has come to ready, failed or stopped.
func (n *node) settled(name string) *hostagentv1.Guest {
	n.t.Helper()
	return n.until(name, "settled", func(g *hostagentv1.Guest) bool {
		return g.State == "ready" || g.State == "failed" || g.State == "stopped"
	})
}

// ready boots a bundle up to ready.
func (n *node) ready(bundle, name string) *hostagentv1.Guest {
	n.t.Helper()
	if err := n.launch(bundle, name); err != nil {
		n.t.Fatal(err)
	}
	g := n.settled(name)
	if g.State != "ready" {
		n.t.Fatalf("guest is %v\nconsole:\n%s", g, n.console(name))
	}
	return g
}

func (n *node) console(name string) string {
	var out []byte
	for offset := int64(0); ; {
		r, err := n.c.Console(context.Background(), name, offset, 0)
		if err != nil {
			return err.Error()
		}
		out = append(out, r.Data...)
		if offset = r.Next; r.Next >= r.Size {
			return string(out)
		}
	}
}

// says waits until a guest has said something on its console.
func (n *node) says(name, text string) string {
	n.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		c := n.console(name)
		if strings.Contains(c, text) {
			return c
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("no %q on the console:\n%s", text, c)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// secexec runs the command line against the node.
func (n *node) secexec(args ...string) (string, error) {
	out, err := n.command(args...).CombinedOutput()
	return string(out), err
}

// command is the command line against the node.
func (n *node) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(lab.dir, "secexec"), args...)
	cmd.Env = append(os.Environ(), "SECEXEC_SOCKET="+n.path("sock"))
	return cmd
}

// code is an error's stable code.
func code(err error) string {
	var f *fault.Error
	if errors.As(err, &f) {
		return string(f.Code)
	}
	return fmt.Sprint(err)
}
