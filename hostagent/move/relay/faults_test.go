package relay_test

import (
	"context"
	"errors"
	"sync"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// errCut is what a relay sees of a network that fails.
var errCut = errors.New("connection cut")

// wire counts the messages of a relay to both nodes and disturbs one.
type wire struct {
	at      int         // this message, counted from 1; 0: none
	before  func() bool // called before it is sent; false: it is lost
	after   func() bool // called before its answer is delivered; false: that is lost
	mangle  func(name string, answer any)
	onCall  func(name string) error // called for every message
	mu      sync.Mutex
	count   int
	calls   []string
	twofold bool // every message is sent twice
}

// end is one node as a relay sees it over the wire.
type end struct {
	name string
	*client.Mover
	w *wire
}

func call[Q, A any](e end, what string, ctx context.Context, f func(context.Context, Q) (A, error), q Q) (A, error) {
	var none A
	name := e.name + "." + what
	e.w.mu.Lock()
	e.w.count++
	hit := e.w.count == e.w.at
	e.w.calls = append(e.w.calls, name)
	e.w.mu.Unlock()
	if e.w.onCall != nil {
		if err := e.w.onCall(name); err != nil {
			return none, err
		}
	}
	if hit && e.w.before != nil && !e.w.before() {
		return none, errCut
	}
	a, err := f(ctx, q)
	if e.w.twofold && err == nil {
		a, err = f(ctx, q)
	}
	if hit && e.w.after != nil && !e.w.after() {
		return none, errCut
	}
	if e.w.mangle != nil && err == nil {
		e.w.mangle(name, a)
	}
	return a, err
}

func (e end) Offer(ctx context.Context, r *hostagentv1.OfferRequest) (*hostagentv1.MoveOffer, error) {
	return call(e, "Offer", ctx, e.Mover.Offer, r)
}

func (e end) Check(ctx context.Context, r *hostagentv1.CheckRequest) (*hostagentv1.CheckResponse, error) {
	return call(e, "Check", ctx, e.Mover.Check, r)
}

func (e end) Leave(ctx context.Context, r *hostagentv1.LeaveRequest) (*hostagentv1.LeaveResponse, error) {
	return call(e, "Leave", ctx, e.Mover.Leave, r)
}

func (e end) Arrive(ctx context.Context, r *hostagentv1.ArriveRequest) (*hostagentv1.ArriveResponse, error) {
	return call(e, "Arrive", ctx, e.Mover.Arrive, r)
}

func (e end) Scan(ctx context.Context, r *hostagentv1.ScanRequest) (*hostagentv1.ScanResponse, error) {
	return call(e, "Scan", ctx, e.Mover.Scan, r)
}

func (e end) Want(ctx context.Context, r *hostagentv1.WantRequest) (*hostagentv1.WantResponse, error) {
	return call(e, "Want", ctx, e.Mover.Want, r)
}

func (e end) Read(ctx context.Context, r *hostagentv1.ReadRequest) (*hostagentv1.ReadResponse, error) {
	return call(e, "Read", ctx, e.Mover.Read, r)
}

func (e end) Write(ctx context.Context, r *hostagentv1.WriteRequest) (*hostagentv1.WriteResponse, error) {
	return call(e, "Write", ctx, e.Mover.Write, r)
}

func (e end) Seal(ctx context.Context, r *hostagentv1.SealRequest, p func(int64, int64)) ([]byte, error) {
	seal := func(ctx context.Context, r *hostagentv1.SealRequest) ([]byte, error) { return e.Mover.Seal(ctx, r, p) }
	return call(e, "Seal", ctx, seal, r)
}

func (e end) Give(ctx context.Context, r *hostagentv1.GiveRequest) (*hostagentv1.GiveResponse, error) {
	return call(e, "Give", ctx, e.Mover.Give, r)
}

func (e end) Take(ctx context.Context, r *hostagentv1.TakeRequest) (*hostagentv1.TakeResponse, error) {
	return call(e, "Take", ctx, e.Mover.Take, r)
}

func (e end) Bury(ctx context.Context, r *hostagentv1.BuryRequest) (*hostagentv1.BuryResponse, error) {
	return call(e, "Bury", ctx, e.Mover.Bury, r)
}

func (e end) Cancel(ctx context.Context, r *hostagentv1.CancelRequest) (*hostagentv1.CancelResponse, error) {
	return call(e, "Cancel", ctx, e.Mover.Cancel, r)
}
