package relay_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/secexec/secexec/hostagent/api"
	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/hostagent/move/relay"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/seimage"
)

// host is a platform with one host key.
type host struct {
	platform.Emulated
	hash      [32]byte
	protected bool
}

func (h host) Protected() bool                    { return h.protected }
func (h host) HostKeyHashes() ([][32]byte, error) { return [][32]byte{h.hash}, nil }
func (host) Check(context.Context) error          { return nil }
func (host) Configure(c *qemu.Config)             { c.Accel, c.CPU = "tcg", "max" }

// launcher starts nothing and knows how often it was asked.
type launcher struct {
	adopts bool // what ran goes on

	mu     sync.Mutex
	starts int
}

// process is one that runs on.
type process struct{ id launch.Identity }

func (p process) Identity() launch.Identity  { return p.id }
func (p process) Exited() <-chan struct{}    { return nil }
func (p process) Exit() launch.Exit          { return launch.Exit{} }
func (p process) Kill(context.Context) error { return nil }

func (l *launcher) Start(context.Context, launch.Spec) (launch.Process, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.starts++
	return nil, errors.New("this launcher starts nothing")
}

func (l *launcher) Adopt(_ context.Context, id launch.Identity) (launch.Process, error) {
	if l.adopts {
		return process{id}, nil
	}
	return nil, launch.ErrGone
}

func (l *launcher) FindOrphans(context.Context, string) ([]launch.Process, error) { return nil, nil }

// records is a store whose node dies at a chosen write.
type records struct {
	*store.Store
	die func() // ends the node

	mu     sync.Mutex
	writes int
	at     int  // this write, counted from 1, is the last; 0: none
	before bool // it does not happen
	dead   bool
}

var errDead = errors.New("the node is dead")

// write counts a write and does it, if the node lives.
func (r *records) write(do func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead {
		return errDead
	}
	r.writes++
	last := r.writes == r.at
	if last {
		r.dead = true
		go r.die()
		if r.before {
			return errDead
		}
	}
	if err := do(); err != nil || last {
		return errors.Join(err, errDead)
	}
	return nil
}

func (r *records) Save(g *store.Guest) error { return r.write(func() error { return r.Store.Save(g) }) }
func (r *records) Delete(name string) error {
	return r.write(func() error { return r.Store.Delete(name) })
}

func (r *records) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writes
}

// node is a hostagent in this process.
type node struct {
	t        *testing.T
	dir      string
	host     host
	launcher *launcher
	capacity guest.Capacity
	at       int // see records
	before   bool

	mu      sync.Mutex
	records *records
	fleet   *guest.Fleet
	shut    func() // ends the server
	closed  bool
}

// keys are those of the two hosts that the tests' images are sealed for.
var keys = sync.OnceValue(func() (out []*ecdsa.PrivateKey) {
	for range 2 {
		key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
		if err != nil {
			panic(err)
		}
		out = append(out, key)
	}
	return out
})

// image is a sealed boot image, and the hashes of the host keys in its header.
var image = sync.OnceValues(func() (sealed []byte, hashes [][32]byte) {
	kernel := make([]byte, 0x13000)
	copy(kernel[0x10008:], "S390EP")
	copy(kernel[0x10430:], []byte{0, 0, 0, 0, 0, 0, 0x03, 0x80})
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	out, err := os.Create(filepath.Join(dir, "boot.seimg"))
	if err != nil {
		panic(err)
	}
	defer out.Close()
	if _, err := seimage.Create(context.Background(), out, seimage.Spec{
		Kernel:  seimage.Source{R: bytes.NewReader(kernel), Size: int64(len(kernel))},
		Cmdline: []byte("quiet"), Hosts: []*ecdsa.PublicKey{&keys()[0].PublicKey, &keys()[1].PublicKey},
	}); err != nil {
		panic(err)
	}
	if sealed, err = os.ReadFile(out.Name()); err != nil {
		panic(err)
	}
	img, err := seimage.Open(bytes.NewReader(sealed), int64(len(sealed)))
	if err != nil {
		panic(err)
	}
	for _, s := range img.Header.Slots {
		hashes = append(hashes, s.HostHash)
	}
	return sealed, hashes
})

func newNode(t *testing.T, n int) *node {
	t.Helper()
	_, hashes := image()
	dir, err := os.MkdirTemp("/dev/shm", "n") // short: sockets have short paths
	if err != nil {
		if dir, err = os.MkdirTemp("", "n"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	x := &node{t: t, dir: dir, host: host{hash: hashes[n]}, launcher: &launcher{}, capacity: guest.Capacity{MemoryMiB: 1000, Ratio: 1, CPUs: 4}}
	x.start()
	t.Cleanup(x.stop)
	return x
}

func (n *node) socket() string { return filepath.Join(n.dir, "sock") }

// open opens the node's state folder. A child that another test has just forked
// may hold the lock for a moment.
func (n *node) open() *store.Store {
	n.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		st, err := store.Open(filepath.Join(n.dir, "state"))
		if err == nil {
			return st
		}
		if !errors.Is(err, store.ErrLocked) || time.Now().After(end) {
			n.t.Fatal(err)
		}
	}
}

func (n *node) start() {
	n.t.Helper()
	st := n.open()
	r := &records{Store: st, at: n.at, before: n.before}
	r.die = func() { n.end(r) }
	n.at = 0
	program, err := filepath.Abs("../../guest/testdata/qemu")
	if err != nil {
		n.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	fleet, err := guest.NewFleet(n.t.Context(), guest.Options{
		Store: r, Launcher: n.launcher, Platform: n.host, Hub: guest.NewHub(), Log: log, QEMU: program, Runtime: n.dir, ReadyTimeout: time.Minute,
		Capacity: n.capacity,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	server, err := api.NewServer(&api.Service{Fleet: fleet})
	if err != nil {
		n.t.Fatal(err)
	}
	_ = os.Remove(n.socket())
	l, err := net.Listen("unix", n.socket())
	if err != nil {
		n.t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	serving, stop := context.WithCancel(context.WithoutCancel(n.t.Context()))
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = api.NewGate(server, log).Serve(serving, l, api.Admission{Admins: -1, Tenants: -1}.Unix)
	}()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records, n.fleet, n.closed = r, fleet, false
	n.shut = func() { stop(); server.Close(); <-served }
}

// stop ends the node; nothing that it does from now on reaches its disk's
// records. It may be called again.
func (n *node) stop() { n.end(nil) }

// end is stop, of the hostagent with these records only; nil: of any.
func (n *node) end(r *records) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || r != nil && r != n.records {
		return
	}
	n.closed = true
	n.records.mu.Lock()
	n.records.dead = true
	n.records.mu.Unlock()
	n.shut()
	n.fleet.Close()
	n.records.Close()
}

func (n *node) restart() { n.stop(); n.start() }

// dial connects to the node.
func (n *node) dial(ctx context.Context) (*client.Client, error) {
	return client.Dial(ctx, n.socket(), nil)
}

func (n *node) mover() *client.Mover {
	n.t.Helper()
	m, err := client.NewMover(n.t.Context(), n.dial)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(m.Close)
	return m
}

// startGuest starts the guest on the node.
func (n *node) startGuest() error {
	conn, err := net.Dial("unix", n.socket())
	if err != nil {
		return err
	}
	c := ttrpc.NewClient(conn)
	defer c.Close()
	_, err = hostagentv1.NewHostagentClient(c).Start(n.t.Context(), &hostagentv1.StartRequest{Name: "g"})
	return err
}

// content is a guest's files.
type content map[string][]byte

// files are those of the tests' guest: an image, a disk of some chunks with a
// hole, and a small one.
func files(seed byte) content {
	sealed, _ := image()
	root := make([]byte, 3<<20+123)
	r := mrand.NewChaCha8([32]byte{seed})
	_, _ = r.Read(root[:1<<20])
	_, _ = r.Read(root[3<<20:])
	return content{"boot.seimg": sealed, "root.img": root, "data.img": []byte{seed, 1, 2}}
}

// put makes the guest g on a node, in the state stopped.
func (n *node) put(files content) {
	n.t.Helper()
	rec := &store.Guest{
		Name: "g", UUID: "6d1f3d90-8c86-4a2f-9d3c-3d2f1e0a9b8c", State: "stopped", Image: "boot.seimg", MemoryMiB: 64, CPUs: 1, Owner: 1000,
		Disks:    []store.Disk{{File: "root.img", Serial: "root"}, {File: "data.img", Serial: "data"}},
		Networks: []store.Network{{Kind: "user", MAC: "52:54:00:01:02:03"}}, Order: 7,
		Created: time.UnixMilli(1700000000000).UTC(),
	}
	n.stop()
	st := n.open()
	err := os.MkdirAll(st.Dir("g"), 0o700)
	for name, data := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(st.Dir("g"), name), data, 0o600))
	}
	if err := errors.Join(err, st.Save(rec), st.Close()); err != nil {
		n.t.Fatal(err)
	}
	n.start()
}

// record is the guest g as its hostagent sees it; nil: there is none.
func (n *node) record() *store.Guest {
	g, err := n.fleet.Get("g")
	if err != nil {
		return nil
	}
	rec := g.Snapshot()
	return &rec
}

// startable tells whether the guest could be started on the node.
func (n *node) startable() bool {
	rec := n.record()
	return rec != nil && move.Start(rec) == nil
}

// holds wants the guest's files on the node to be these.
func (n *node) holds(want content) error {
	for name, data := range want {
		got, err := os.ReadFile(filepath.Join(n.dir, "state/guests/g", name))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, data) {
			return fmt.Errorf("%s differs", name)
		}
	}
	entries, err := os.ReadDir(filepath.Join(n.dir, "state/guests/g"))
	for _, e := range entries {
		if _, ok := want[e.Name()]; !ok && !store.Reserved(e.Name()) && e.Name()[0] != '.' {
			return fmt.Errorf("%s is there too", e.Name())
		}
	}
	return err
}

// newMove is a move of g between two nodes.
func newMove(src, dst *node) *relay.Move {
	return &relay.Move{Guest: "g", Source: src.mover(), Target: dst.mover(), From: "node a", To: "node b"}
}

// safe wants what holds whenever a move was cut off: one copy of the guest can
// start and has all bytes, or the source has what makes the target's complete
// copy the one.
func safe(t *testing.T, src, dst *node, want content) {
	t.Helper()
	here, there := src.startable(), dst.startable()
	switch a, b := src.record(), dst.record(); {
	case here && there:
		t.Errorf("both copies can start: %+v, %+v", a.Move, b.Move)
	case here:
		if err := src.holds(want); err != nil {
			t.Errorf("the source can start and has lost something: %v", err)
		}
	case there:
		if err := dst.holds(want); err != nil {
			t.Errorf("the target can start and lacks something: %v", err)
		}
	case a == nil || b == nil || a.Move == nil || b.Move == nil:
		t.Errorf("no copy can start: source %+v, target %+v", a, b)
	case move.PhaseOf(a) != move.Given || move.PhaseOf(b) != move.Arrived || move.IDOf(a) != move.IDOf(b) || a.Move.Copy != b.Move.Copy:
		t.Errorf("no copy can start, and none will: source %+v, target %+v", a.Move, b.Move)
	default:
		if err := errors.Join(src.holds(want), dst.holds(want)); err != nil {
			t.Errorf("given and not taken: %v", err)
		}
	}
}

// moved wants the guest to be on the target alone.
func moved(t *testing.T, src, dst *node, want content) {
	t.Helper()
	if rec := src.record(); rec != nil {
		t.Errorf("the source still has %+v", rec)
	}
	if _, err := os.Stat(filepath.Join(src.dir, "state/guests/g")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the source's folder: %v", err)
	}
	if !dst.startable() {
		t.Errorf("the target can't start %+v", dst.record())
	}
	if err := dst.holds(want); err != nil {
		t.Errorf("the target: %v", err)
	}
}

func failed(verdicts []*hostagentv1.MoveVerdict) (out []string) {
	for _, v := range verdicts {
		if !v.Ok {
			out = append(out, v.What+" "+v.Failure.GetCode())
		}
	}
	slices.Sort(out)
	return out
}
