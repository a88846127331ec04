package kube

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// machine is a node with all but a container runtime: hostagent on the emulated
// platform, the node agent, and what of kubelet serves devices.
type machine struct {
	*cluster
	t         *testing.T // whose end is its own
	name      string
	dir       string // short: sockets' paths have at most 107 bytes
	host      string // folder of its emulated host
	places    int64
	account   *account
	hostagent *process
	agent     *process
	kubelet   *kubelet
}

// emulatedHost makes the host key of a machine, and returns its folder. The host
// key document in it is host.crt.
func emulatedHost(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	run(t, ours(t, "secexec"), "emulate", "init", dir)
	return dir
}

// newMachine registers a node as kubelet does, and starts what runs on it.
func newMachine(t *testing.T, c *cluster, name, host string, places int64, a *account) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "kube")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // as t.TempDir, but it has the test's name in its path
	m := &machine{cluster: c, t: t, name: name, dir: dir, host: host, places: places, account: a}
	if _, err := c.client.CoreV1().Nodes().Create(t.Context(), newNode(name, 0), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(m.plugins(), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.killLeft(t) })
	m.kubelet = newKubelet(t, m.plugins())
	m.startHostagent()
	m.startAgent()
	return m
}

func (m *machine) plugins() string { return filepath.Join(m.dir, "plugins") }
func (m *machine) socket() string  { return filepath.Join(m.dir, "hostagent.sock") }

func (m *machine) startHostagent() {
	m.t.Helper()
	m.hostagent = start(m.t, m.dir, "hostagent-"+m.name, ours(m.t, "hostagent"), "--platform", "emulated", "--emulated-host", m.host, "--force-emulated",
		"--state", filepath.Join(m.dir, "state"), "--runtime", filepath.Join(m.dir, "run"), "--socket", m.socket(),
		"--config", "", "--launcher", "direct", "--memory-ratio", "0", "--ready-timeout", patience.String())
	eventually(m.t, "hostagent answers", func(context.Context) error {
		_, err := os.Stat(m.socket())
		return err
	}, m.hostagent)
}

// startAgent starts the node agent as its pod on this node.
func (m *machine) startAgent() {
	m.t.Helper()
	file := filepath.Join(m.dir, "token")
	if err := os.WriteFile(file, []byte(m.token(m.t, m.account, m.name)), 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.agent = start(m.t, m.dir, "agent-"+m.name, ours(m.t, "secexec"), "node", "kubernetes", "--node-name", m.name, "--socket", m.socket(),
		"--server", m.config.Host, "--certificate-authority", m.config.CAFile, "--token-file", file,
		"--device-plugins", m.plugins(), "--slots", fmt.Sprint(m.places), "--interval", "1s")
}

// node returns the machine's Node, with what kubelet would have written into its
// status by now.
func (m *machine) node(ctx context.Context) (*corev1.Node, error) {
	node, err := m.client.CoreV1().Nodes().Get(ctx, m.name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	capacity, allocatable := m.kubelet.guests()
	if c, a := guestPlaces(node); c == capacity && a == allocatable {
		return node, nil
	}
	node.Status.Capacity[resourceGuest], node.Status.Allocatable[resourceGuest] = count(capacity), count(allocatable)
	return m.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
}

// ours are the labels of a node that are the node agent's, as KEY=VALUE, without
// the version.
func ourLabels(node *corev1.Node) []string {
	var out []string
	for key, value := range node.Labels {
		if strings.HasPrefix(key, "secexec.dev/") && key != "secexec.dev/version" {
			out = append(out, key+"="+value)
		}
	}
	slices.Sort(out)
	return out
}

// wantNode waits until the node shows these labels, and so many places for guests.
func (m *machine) wantNode(t *testing.T, allocatable int64, labels ...string) {
	t.Helper()
	slices.Sort(labels)
	eventually(t, fmt.Sprintf("node %s shows %d places and %v", m.name, allocatable, labels), func(ctx context.Context) error {
		node, err := m.node(ctx)
		if err != nil {
			return err
		}
		_, a := guestPlaces(node)
		if got := ourLabels(node); a != allocatable || !slices.Equal(got, labels) {
			return fmt.Errorf("it shows %d places and %v", a, got)
		}
		return nil
	}, m.api)
}

// killLeft ends guests that outlived their hostagent: their QEMUs have the
// machine's folder in their arguments.
func (m *machine) killLeft(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		left := processesOf(t, m.dir)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes of %s are left: %v", m.name, left)
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone by itself
		}
	}
}
