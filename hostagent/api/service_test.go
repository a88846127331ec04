package api

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/node"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/roots"
	"github.com/secexec/secexec/hostagent/settings"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// host is a platform on which everything may be tried and nothing runs.
type host struct{ platform.Emulated }

func (host) HostKeyHashes() ([][32]byte, error) { return nil, platform.ErrHashesUnknown }
func (host) Check(context.Context) error        { return nil }

// nothing starts nothing.
type nothing struct{}

func (nothing) Start(context.Context, launch.Spec) (launch.Process, error) {
	return nil, errors.New("this launcher starts nothing")
}
func (nothing) Adopt(context.Context, launch.Identity) (launch.Process, error) {
	return nil, launch.ErrGone
}
func (nothing) FindOrphans(context.Context, string) ([]launch.Process, error) { return nil, nil }

// Who calls in these tests.
var (
	admin = Caller{UID: 0, Admin: true, From: "test"}
	alice = Caller{UID: 4001, GIDs: []uint32{4001}, From: "test"}
	bob   = Caller{UID: 4002, GIDs: []uint32{4002}, From: "test"}
)

// testNode is a hostagent's API, all of it but the processes.
type testNode struct {
	t       *testing.T
	fleet   *guest.Fleet
	service *Service
	gate    *Gate
	dir     string // short: sockets have short paths
	bundle  string // everybody may read it
}

func newNode(t *testing.T, change func(*testNode)) *testNode {
	t.Helper()
	dir, err := os.MkdirTemp("", "a")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	n := &testNode{t: t, dir: dir, bundle: filepath.Join(dir, "bundles", "hello")}
	if err := errors.Join(os.Chmod(dir, 0o755), os.MkdirAll(n.bundle, 0o755)); err != nil {
		t.Fatal(err)
	}
	writeBundle(t, n.bundle)
	st, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	n.fleet, err = guest.NewFleet(t.Context(), guest.Options{
		Store: st, Launcher: nothing{}, Platform: host{}, Hub: guest.NewHub(), Log: slog.New(slog.DiscardHandler),
		QEMU: filepath.Join(dir, "no-qemu"), Runtime: dir,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.fleet.Close)
	n.service = &Service{
		Fleet: n.fleet, Roots: Roots{Tenants: roots.Roots{filepath.Join(dir, "bundles")}},
		Examine: func(context.Context) []node.Finding { return nil },
		Node:    func(context.Context) *hostagentv1.NodeInfoResponse { return &hostagentv1.NodeInfoResponse{} },
		Quotas:  Quotas{Default: settings.Quota{Guests: 5, MemoryMiB: 4096, CPUs: 8, DiskMiB: 64}},
	}
	server, err := NewServer(n.service)
	if err != nil {
		t.Fatal(err)
	}
	n.gate = NewGate(server, slog.New(slog.DiscardHandler))
	if change != nil {
		change(n)
	}
	return n
}

// writeBundle writes a small bundle, named hello.
func writeBundle(t *testing.T, dir string) {
	t.Helper()
	m := &bundle.Manifest{
		Version: 1, Name: "hello", Image: bundle.Image{ID: strings.Repeat("0a", 16)}, Disks: []bundle.Disk{{Serial: "root", Format: "raw"}},
		KeySlots: []bundle.KeySlot{{HostKeyHash: strings.Repeat("5e", 32)}}, Identity: strings.Repeat("1d", 32), MemoryMiB: 512,
	}
	for file, part := range map[string]*bundle.Part{"boot.seimg": &m.Image.Part, "root.img": &m.Disks[0].Part} {
		data := bytes.Repeat([]byte(file), 100)
		p, err := bundle.Describe(t.Context(), file, bytes.NewReader(data))
		if err = errors.Join(err, os.WriteFile(filepath.Join(dir, file), data, 0o644)); err != nil {
			t.Fatal(err)
		}
		*part = p
	}
	text, err := m.Marshal()
	if err = errors.Join(err, os.WriteFile(filepath.Join(dir, bundle.ManifestFile), text, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// socket listens for somebody: who connects to it is that caller.
func (n *testNode) socket(who Caller) string {
	n.t.Helper()
	path := filepath.Join(n.dir, hex.EncodeToString([]byte{byte(who.UID), byte(len(listDir(n.t, n.dir)))}))
	n.serve(path, func(_ context.Context, c net.Conn) (net.Conn, *Caller, error) {
		who := who
		return c, &who, nil
	})
	return path
}

func (n *testNode) serve(path string, admit Admit) {
	n.t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		n.t.Fatal(err)
	}
	n.serveOn(l, admit)
}

func (n *testNode) serveOn(l net.Listener, admit Admit) {
	ctx, cancel := context.WithCancel(n.t.Context())
	served := make(chan error, 1)
	go func() { served <- n.gate.Serve(ctx, l, admit) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			n.t.Errorf("the gate ends with %v", err)
		}
	})
}

func (n *testNode) dial(who Caller) *client.Client {
	n.t.Helper()
	return n.connect(n.socket(who))
}

func (n *testNode) connect(path string) *client.Client {
	n.t.Helper()
	c, err := client.Dial(n.t.Context(), path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	return c
}

func (n *testNode) create(c *client.Client, name string) *hostagentv1.Guest {
	n.t.Helper()
	g, err := c.Create(n.t.Context(), &hostagentv1.CreateRequest{Name: name, Bundle: n.bundle})
	if err != nil {
		n.t.Fatal(err)
	}
	return g
}

// code is an error's code, "" of none.
func code(err error) fault.Code {
	var f *fault.Error
	if errors.As(err, &f) {
		return f.Code
	}
	return ""
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

func listDir(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}
