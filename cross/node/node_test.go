// Package node tries the Debian packages in nodes: a systemd of its own as PID 1,
// in namespaces (cross/node.sh). It wants root, cgroup2 and what cross/setup.sh
// makes.
package node

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait for a condition.
const patience = 90 * time.Second

// lab is what all tests share: node.sh's folder and the packages.
var lab struct {
	dir   string // of nodes
	cache string
	skip  string
	// debs makes the packages of a version, once; it returns their paths, by name.
	debs func(version string) (map[string]string, error)
}

// The versions that the tests install and upgrade to.
const (
	older = "0.1"
	newer = "0.2"
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		lab.cache = os.Getenv("SECEXEC_CACHE")
		if lab.cache == "" {
			lab.cache = "../../.cache"
		}
		lab.dir = os.Getenv("SECEXEC_NODE_DIR")
		if lab.dir == "" {
			lab.dir = filepath.Join(lab.cache, "node")
		}
		lab.skip = missing()
		work, err := os.MkdirTemp("", "secexec-node-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(work)
		var mu sync.Mutex // guards made
		made := make(map[string]map[string]string)
		lab.debs = func(version string) (map[string]string, error) {
			mu.Lock()
			defer mu.Unlock()
			if debs := made[version]; debs != nil {
				return debs, nil
			}
			cmd := exec.Command("../../packaging/build.sh", "-f", "-a", "amd64", "-V", version, "-o", work, "deb")
			if out, err := cmd.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
			}
			made[version] = map[string]string{}
			for _, name := range []string{"secexec", "secexec-hostagent"} {
				made[version][name] = filepath.Join(work, name+"_"+version+"-1_amd64.deb")
			}
			return made[version], nil
		}
		return m.Run()
	}())
}

// missing says why no node can run here.
func missing() string {
	mounts, err := os.ReadFile("/proc/mounts")
	switch {
	case err != nil:
		return err.Error()
	case os.Geteuid() != 0:
		return "nodes want root"
	case !bytes.Contains(mounts, []byte(" cgroup2 ")):
		return "no cgroup2 mounted: mount -t cgroup2 none /sys/fs/cgroup"
	}
	if _, err := os.Stat(filepath.Join(lab.dir, "base")); err != nil {
		return "no base of nodes in " + lab.dir + ": run cross/setup.sh"
	}
	if out, err := exec.Command("unshare", "--mount", "--pid", "--fork", "--ipc", "--uts", "--cgroup", "true").CombinedOutput(); err != nil {
		return "namespaces can't be made here: " + strings.TrimSpace(string(out))
	}
	for _, name := range []string{"dpkg-deb", "go"} {
		if _, err := exec.LookPath(name); err != nil {
			return "no " + name
		}
	}
	return ""
}

func long(t *testing.T) {
	t.Helper()
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-node)")
	}
}

// node is a running node, which ends with its test.
type node struct {
	t    *testing.T
	name string
}

// start boots a node of its own for a test.
func start(t *testing.T) *node {
	t.Helper()
	if lab.skip != "" {
		t.Skip(lab.skip)
	}
	name := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(t.Name()))
	n := &node{t: t, name: fmt.Sprintf("%s-%d", name, os.Getpid())}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := n.command("exec", "journalctl", "--no-pager", "-o", "short-precise", "-n", "80").CombinedOutput()
			t.Logf("the node's journal ends:\n%s", out)
		}
		if out, err := n.command("stop").CombinedOutput(); err != nil {
			t.Errorf("stop node: %v\n%s", err, out)
		}
	})
	n.verb("-n", "start")
	return n
}

func (n *node) command(args ...string) *exec.Cmd {
	return exec.Command("../node.sh", append([]string{"-d", lab.dir, "-N", n.name}, args...)...)
}

// verb calls node.sh with a verb of its own.
func (n *node) verb(args ...string) {
	n.t.Helper()
	if out, err := n.command(args...).CombinedOutput(); err != nil {
		n.t.Fatalf("node.sh %v: %v\n%s", args, err, out)
	}
}

// try runs a shell script in the node.
func (n *node) try(script string) (string, error) {
	out, err := n.command("exec", "sh", "-euc", script).CombinedOutput()
	return strings.TrimRight(string(out), "\n"), err
}

// sh runs a shell script in the node that must succeed.
func (n *node) sh(script string) string {
	n.t.Helper()
	out, err := n.try(script)
	if err != nil {
		n.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// want compares what a script prints.
func (n *node) want(script, want string) {
	n.t.Helper()
	if got, err := n.try(script); got != want {
		n.t.Errorf("%s: %q (%v), want %q", script, got, err, want)
	}
}

// until waits for a script to succeed.
func (n *node) until(script string) string {
	n.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		out, err := n.try(script)
		if err == nil {
			return out
		}
		if time.Now().After(end) {
			n.t.Fatalf("not in %s: %s: %v\n%s", patience, script, err, out)
		}
	}
}

// install brings a version's packages into the node and installs them.
func (n *node) install(version string, names ...string) string {
	n.t.Helper()
	debs, err := lab.debs(version)
	if err != nil {
		n.t.Fatal(err)
	}
	var paths []string
	for _, name := range names {
		n.verb("copy", debs[name], "/root/")
		paths = append(paths, "/root/"+filepath.Base(debs[name]))
	}
	return n.sh("DEBIAN_FRONTEND=noninteractive dpkg -i --force-confold " + strings.Join(paths, " "))
}
