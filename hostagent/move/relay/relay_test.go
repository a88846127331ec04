package relay_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// What stands in the way is found before anything is touched: the guest may run
// on, and no call but these two was made.
func TestRefusedBeforehand(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		source, target func(*node)
		guest          func(*store.Guest)
		want           string // what is not well, with its code
	}{
		"no key slot":     {target: func(n *node) { n.host.hash = [32]byte{1} }, want: "key slot H202"},
		"unprotected":     {source: func(n *node) { n.host.protected = true }, want: "platform H240"},
		"name taken":      {target: func(n *node) { n.put(files(9)); other(n) }, want: "name H203"},
		"too large":       {guest: func(g *store.Guest) { g.MemoryMiB = 4 << 20 }, want: "size H227"},
		"no room":         {target: func(n *node) { n.crowd() }, want: "room H228"},
		"no interface":    {guest: func(g *store.Guest) { g.Networks[0] = store.Network{Kind: "tap", Tap: "absent0"} }, want: "network H240"},
		"unknown network": {guest: func(g *store.Guest) { g.Networks[0].Kind = "vde" }, want: "record H240"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := newNode(t, 0), newNode(t, 1)
			if c.source != nil {
				c.source(src)
			}
			src.put(files(1))
			if c.guest != nil {
				src.change(c.guest)
			}
			if c.target != nil {
				c.target(dst)
				dst.restart()
			}
			before := dst.record()
			w := &wire{}
			m := over(src, dst, w)
			m.Start = func(context.Context) error { t.Error("the guest was started"); return nil }
			m.Stop = func(context.Context) error { t.Error("the guest was stopped"); return nil }
			verdicts, err := m.Verdicts(t.Context())
			if got := strings.Join(failed(verdicts), ", "); err != nil || got != c.want {
				t.Errorf("verdicts %s, %v; wants %s", got, err, c.want)
			}
			if _, err := m.Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), strings.Fields(c.want)[len(strings.Fields(c.want))-1]) {
				t.Errorf("move: %v", err)
			}
			if got := strings.Join(w.calls, " "); got != "source.Offer target.Check source.Offer target.Check" {
				t.Errorf("calls %s", got)
			}
			if rec := src.record(); rec.Move != nil || rec.State != "stopped" {
				t.Errorf("the source is %+v", rec)
			}
			if after := dst.record(); (after == nil) != (before == nil) {
				t.Errorf("the target had %+v, has %+v", before, after)
			}
		})
	}
}

// crowd makes all of the node's memory another guest's, which runs.
func (n *node) crowd() {
	n.t.Helper()
	n.stop()
	st := n.open()
	rec := &store.Guest{Name: "big", UUID: "00000000-8c86-4a2f-9d3c-3d2f1e0a9b8c", State: "running", MemoryMiB: 1000, CPUs: 1, Process: &launch.Identity{PID: 1}}
	if err := errors.Join(os.MkdirAll(st.Dir("big"), 0o700), st.Save(rec), st.Close()); err != nil {
		n.t.Fatal(err)
	}
	n.launcher.adopts = true
	n.start()
}

// other makes the node's guest another one of the same name.
func other(n *node) {
	n.change(func(g *store.Guest) { g.UUID = "00000000-8c86-4a2f-9d3c-3d2f1e0a9b8c" })
}

// change changes the guest's record.
func (n *node) change(do func(*store.Guest)) {
	n.t.Helper()
	rec := n.record()
	n.stop()
	st := n.open()
	do(rec)
	if err := errors.Join(st.Save(rec), st.Close()); err != nil {
		n.t.Fatal(err)
	}
	n.start()
}

// A disk that is the node's own stays behind if that is asked for.
func TestAttachedDisk(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, files(1))
	src.change(func(g *store.Guest) {
		g.Disks = append(g.Disks, store.Disk{Path: "/dev/absent", Serial: "scratch"})
	})
	m := newMove(src, dst)
	if _, err := m.Run(t.Context()); fault.As(err).Code != fault.Unfit || !strings.Contains(err.Error(), "--without-disk scratch") {
		t.Errorf("%v", err)
	}
	m.WithoutDisks = []string{"scratch"}
	if _, err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	moved(t, src, dst, files(1))
	if n := len(dst.record().Disks); n != 2 {
		t.Errorf("%d disks arrived", n)
	}
}

// A guest that runs is stopped, and started there; what the caller says of the
// owner holds.
func TestRunningGuest(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, files(1))
	m := newMove(src, dst)
	uid := uint32(4711)
	m.Owner = &uid
	steps := []string{}
	m.Step = func(what string) { steps = append(steps, what) }
	m.Start = func(context.Context) error { return dst.startGuest() }
	var most int64
	m.Progress = func(_ string, done, total int64) { most = max(most, done) }
	sum, err := m.Run(t.Context())
	if err != nil || sum.Total != most {
		t.Fatalf("%+v, progress up to %d: %v", sum, most, err)
	}
	moved(t, src, dst, files(1))
	if rec := dst.record(); rec.Owner != uid {
		t.Errorf("owner %d", rec.Owner)
	}
	if dst.launcher.starts != 1 && dst.record().State != "starting" || src.launcher.starts != 0 {
		t.Errorf("started %d times there, %d here", dst.launcher.starts, src.launcher.starts)
	}
	if got := strings.Join(steps, ", "); got != "check the other node, transfer files, check the copy, hand over, remove what is left here" {
		t.Errorf("steps %s", got)
	}
}

// A guest that does not come up there is there nevertheless; the next command
// tries again and only then removes what is here.
func TestDoesNotComeUp(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, files(1))
	m := newMove(src, dst)
	down := errors.New("not ready")
	m.Start = func(context.Context) error { return down }
	for range 2 {
		if _, err := m.Run(t.Context()); !errors.Is(err, down) {
			t.Fatal(err)
		}
		safe(t, src, dst, files(1))
		if !dst.startable() || src.record() == nil {
			t.Errorf("there %+v, here %+v", dst.record(), src.record())
		}
	}
	m.Start = nil
	if _, err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	moved(t, src, dst, files(1))
}

// Kept files can't start, can be removed, and are where the guest comes back to
// without being sent again.
func TestKeptAndBack(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, files(1))
	m := newMove(src, dst)
	m.Keep = true
	if _, err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rec := src.record(); move.PhaseOf(rec) != move.Gone || src.startable() || !dst.startable() {
		t.Errorf("here %+v, there %+v", rec.Move, dst.record().Move)
	}
	if _, err := m.Run(t.Context()); fault.As(err).Code != fault.Moved {
		t.Errorf("moved again: %v", err)
	}
	back := newMove(dst, src)
	sum, err := back.Run(t.Context())
	if err != nil || sum.Copied != 0 {
		t.Errorf("%d bytes copied back, %v", sum.Copied, err)
	}
	moved(t, dst, src, files(1))

	m = newMove(src, dst)
	m.Keep = true
	if _, err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := src.fleet.Delete(t.Context(), "g"); err != nil {
		t.Errorf("remove what was kept: %v", err)
	}
	moved(t, src, dst, files(1))
}

// Two commands at once for one node share the work; one for a third node is
// refused, or comes first.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, files(1))
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		m := newMove(src, dst)
		wg.Go(func() { _, errs[i] = m.Run(t.Context()) })
	}
	wg.Wait()
	for _, err := range errs {
		// The slower one may find files sealed, or its guest gone, under its hands.
		if code := fault.As(err).Code; err != nil && code != fault.Moving && code != fault.NoGuest && code != fault.Moved && code != fault.Unfit && code != fault.BadRequest {
			t.Errorf("%v", err)
		}
	}
	if src.record() != nil {
		safe(t, src, dst, files(1))
		if _, err := newMove(src, dst).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	moved(t, src, dst, files(1))
}

// Two commands that mean different nodes by one name can't make two guests: the
// source gives the key for one copy only.
func TestOneNameForTwoNodes(t *testing.T) {
	t.Parallel()
	for _, last := range []string{"source.Give", "target.Take", "source.Bury"} {
		t.Run("cut before "+last, func(t *testing.T) {
			t.Parallel()
			src, dst := pair(t, files(1))
			third := newNode(t, 1)
			cutAt := func(n *node, last string) {
				m := over(src, n, &wire{onCall: func(name string) error {
					if name == last {
						return errCut
					}
					return nil
				}})
				if _, err := m.Run(t.Context()); !errors.Is(err, errCut) {
					t.Fatal(err)
				}
			}
			cutAt(third, "source.Give") // a complete copy, by the same move
			cutAt(dst, last)
			m := newMove(src, third) // "node b" too
			m.Keep = true
			_, err := m.Run(t.Context())
			if last == "source.Give" { // nothing was given yet: the third is as good as the second
				third, dst = dst, third
			} else if fault.As(err).Code != fault.Moved {
				t.Errorf("the other copy: %v", err)
			}
			if third.startable() || src.startable() {
				t.Error("a second one can start")
			}
			if _, err := newMove(src, third).Run(t.Context()); err == nil && last != "source.Give" {
				t.Error("it was given twice")
			}
			if _, err := newMove(src, dst).Run(t.Context()); err != nil && last != "source.Give" {
				t.Error(err)
			}
			moved(t, src, dst, files(1))
			if third.startable() {
				t.Error("the third node can start it too")
			}
		})
	}
}

// A chunk, a digest or a whole description that was changed on its way, or by a
// node, ends the move before anything is given; the next one is well.
func TestDamaged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mangle func(call string, answer any)
		want   fault.Code // "": any
	}{
		"chunk": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.ReadResponse); ok {
				r.Data[len(r.Data)/2] ^= 1
			}
		}, fault.Altered},
		"chunk cut": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.ReadResponse); ok {
				r.Data = r.Data[:len(r.Data)-1]
			}
		}, fault.BadRequest},
		"digest": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.ScanResponse); ok && len(r.Digests) > 0 {
				r.Digests[0] ^= 1
			}
		}, fault.Altered},
		"chunks left out": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.WantResponse); ok {
				r.Chunks = nil
			}
		}, fault.Altered},
		"chunk that there is not": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.WantResponse); ok {
				r.Chunks = []uint32{63}
			}
		}, ""},
		"same chunk for ever": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.WantResponse); ok {
				r.Chunks = make([]uint32, 1000)
			}
		}, ""},
		"zeros instead": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.ScanResponse); ok {
				clear(r.Digests)
			}
		}, fault.Altered},
		"stretch that stands still": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.ScanResponse); ok {
				r.Next, r.End = 0, false
			}
		}, ""},
		"stretch beyond the end": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.ScanResponse); ok {
				r.Next, r.End = 1<<40, false
			}
		}, ""},
		"stretch cut short": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.ScanResponse); ok {
				r.Start, r.Digests, r.End = r.Next, nil, true
			}
		}, ""},
		"stretches without end": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.ScanResponse); ok {
				r.Digests = make([]byte, 65*32)
			}
		}, ""},
		"path": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.MoveOffer); ok {
				r.Files[1].Name = "../../../root.img"
			}
		}, fault.Unfit},
		"size": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.MoveOffer); ok {
				r.Files[1].Size = 1 << 62
			}
		}, fault.Unfit},
		"smaller size": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.MoveOffer); ok {
				r.Files[1].Size = 1 << 20
			}
		}, ""},
		"record": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.MoveOffer); ok {
				r.Record[len(r.Record)/2] ^= 1
			}
		}, fault.Unfit},
		"no place": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.MoveOffer); ok {
				r.Place = nil
			}
		}, ""},
		"id": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.LeaveResponse); ok {
				r.Id = "../../x"
			}
		}, fault.BadRequest},
		"another id": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.LeaveResponse); ok {
				r.Id = move.ID("another")
			}
		}, fault.Moving},
		"key": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.GiveResponse); ok {
				r.Key = move.NewKey()
			}
		}, fault.Moving},
		"seal": {func(_ string, a any) {
			if digest, ok := a.([]byte); ok {
				digest[0] ^= 1
			}
		}, fault.Altered},
		"slots": {func(_ string, a any) {
			if r, ok := a.(*hostagentv1.MoveOffer); ok {
				r.KeySlots = nil
			}
		}, fault.NoSlot},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dst := pair(t, files(1))
			_, err := over(src, dst, &wire{mangle: c.mangle}).Run(t.Context())
			if err == nil {
				t.Fatal("nobody noticed")
			}
			if got := fault.As(err).Code; c.want != "" && got != c.want {
				t.Errorf("%v, wants %s", err, c.want)
			}
			safe(t, src, dst, files(1))
			again := newMove(src, dst)
			if _, err := again.Run(t.Context()); err != nil {
				// A copy of a move that the source does not know is in the way.
				if err := again.Abort(t.Context(), false); err != nil {
					t.Fatalf("abort: %v", err)
				}
				if _, err := again.Run(t.Context()); err != nil {
					t.Fatalf("again: %v", err)
				}
			}
			moved(t, src, dst, files(1))
		})
	}
}

// A copy that a disk changes after it was written is not taken.
func TestBitRot(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, files(1))
	path := filepath.Join(dst.dir, "state/guests/g/root.img")
	m := over(src, dst, &wire{onCall: func(name string) error {
		if name == "target.Seal" {
			data, err := os.ReadFile(path)
			if err == nil {
				data[99] ^= 1
				err = os.WriteFile(path, data, 0o600)
			}
			return err
		}
		return nil
	}})
	if _, err := m.Run(t.Context()); fault.As(err).Code != fault.Altered {
		t.Fatalf("%v", err)
	}
	safe(t, src, dst, files(1))
	sum, err := newMove(src, dst).Run(t.Context())
	if err != nil || sum.Copied != move.ChunkSize {
		t.Errorf("%d bytes mended, %v", sum.Copied, err)
	}
	moved(t, src, dst, files(1))
}

// Both sides of --lost: a source that gave the guest away takes it back, and a
// target removes its complete copy.
func TestLost(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, files(1))
	m := over(src, dst, &wire{onCall: func(name string) error {
		if name == "target.Take" {
			return errCut
		}
		return nil
	}})
	if _, err := m.Run(t.Context()); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	for n, x := range map[string]*node{"source": src, "target": dst} {
		if err := x.fleet.Delete(t.Context(), "g"); fault.As(err).Code != fault.Moving {
			t.Errorf("rm on the %s: %v", n, err)
		}
		if err := newMove(x, dst).Abort(t.Context(), false); fault.As(err).Code != fault.Moving {
			t.Errorf("abort on the %s: %v", n, err)
		}
	}
	here := newMove(dst, src)
	here.Target = nil
	if err := here.Abort(t.Context(), true); err != nil || dst.record() != nil {
		t.Errorf("abort on the target, the source lost: %v", err)
	}
	here = newMove(src, dst)
	here.Target = nil
	if err := here.Abort(t.Context(), true); err != nil || !src.startable() {
		t.Errorf("abort on the source, the target lost: %v", err)
	}
	safe(t, src, dst, files(1))
}

// Calls for files and guests that are in no move, or by another move's id.
func TestStrangeCalls(t *testing.T) {
	t.Parallel()
	src, dst := pair(t, files(1))
	s := src.mover()
	id := move.ID("x")
	ctx := t.Context()
	try := func(what string, s *client.Mover, id, file string) {
		for call, err := range map[string]error{
			"scan":   second(s.Scan(ctx, &hostagentv1.ScanRequest{Name: "g", Id: id, File: file})),
			"read":   second(s.Read(ctx, &hostagentv1.ReadRequest{Name: "g", Id: id, File: file})),
			"want":   second(s.Want(ctx, &hostagentv1.WantRequest{Name: "g", Id: id, File: file, End: true})),
			"write":  second(s.Write(ctx, &hostagentv1.WriteRequest{Name: "g", Id: id, File: file, Data: []byte{1}, Sha256: make([]byte, 32)})),
			"give":   second(s.Give(ctx, &hostagentv1.GiveRequest{Name: "g", Id: id, Copy: id, Digest: make([]byte, 32)})),
			"take":   second(s.Take(ctx, &hostagentv1.TakeRequest{Name: "g", Key: id})),
			"bury":   second(s.Bury(ctx, &hostagentv1.BuryRequest{Name: "g", Id: id})),
			"cancel": second(s.Cancel(ctx, &hostagentv1.CancelRequest{Name: "g", Id: id, Lost: true})),
			"seal":   second(s.Seal(ctx, &hostagentv1.SealRequest{Name: "g", Id: id}, func(int64, int64) {})),
		} {
			var f *fault.Error
			if !errors.As(err, &f) || f.Code == fault.Internal {
				t.Errorf("%s, %s: %v", what, call, err)
			}
		}
	}
	before := *src.record()
	try("in no move", s, id, "root.img")
	try("without an id", s, "", "root.img")
	if after := *src.record(); after.Move != before.Move || after.State != before.State {
		t.Errorf("changed to %+v", after)
	}
	try("no guest", dst.mover(), id, "root.img")
	leave, err := s.Leave(ctx, &hostagentv1.LeaveRequest{Name: "g", Peer: "b"})
	if err != nil {
		t.Fatal(err)
	}
	try("another move", s, id, "root.img")
	for _, file := range []string{"", "guest.json", "../g/root.img", "/etc/passwd", "console.log", "."} {
		if _, err := s.Read(ctx, &hostagentv1.ReadRequest{Name: "g", Id: leave.Id, File: file}); fault.As(err).Code != fault.BadRequest {
			t.Errorf("read %q: %v", file, err)
		}
	}
	if _, err := s.Write(ctx, &hostagentv1.WriteRequest{Name: "g", Id: leave.Id, File: "root.img", Data: []byte{1}, Sha256: make([]byte, 32)}); fault.As(err).Code != fault.Moving {
		t.Errorf("write to a leaving guest: %v", err)
	}
	if err := src.holds(files(1)); err != nil {
		t.Error(err)
	}
}

func second[A any](_ A, err error) error { return err }
