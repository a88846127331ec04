// Package relay moves a guest by calls to two hostagents, which know nothing of
// each other. It keeps no state: what was done is asked of the nodes, so a
// relay that was cut off anywhere is followed by another one.
package relay

import (
	"context"
	"errors"
	"fmt"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Node is one hostagent: a *client.Mover. Errors of hostagent are *fault.Error.
type Node interface {
	Offer(context.Context, *hostagentv1.OfferRequest) (*hostagentv1.MoveOffer, error)
	Check(context.Context, *hostagentv1.CheckRequest) (*hostagentv1.CheckResponse, error)
	Leave(context.Context, *hostagentv1.LeaveRequest) (*hostagentv1.LeaveResponse, error)
	Arrive(context.Context, *hostagentv1.ArriveRequest) (*hostagentv1.ArriveResponse, error)
	Scan(context.Context, *hostagentv1.ScanRequest) (*hostagentv1.ScanResponse, error)
	Want(context.Context, *hostagentv1.WantRequest) (*hostagentv1.WantResponse, error)
	Read(context.Context, *hostagentv1.ReadRequest) (*hostagentv1.ReadResponse, error)
	Write(context.Context, *hostagentv1.WriteRequest) (*hostagentv1.WriteResponse, error)
	Seal(context.Context, *hostagentv1.SealRequest, func(done, total int64)) ([]byte, error)
	Give(context.Context, *hostagentv1.GiveRequest) (*hostagentv1.GiveResponse, error)
	Take(context.Context, *hostagentv1.TakeRequest) (*hostagentv1.TakeResponse, error)
	Bury(context.Context, *hostagentv1.BuryRequest) (*hostagentv1.BuryResponse, error)
	Cancel(context.Context, *hostagentv1.CancelRequest) (*hostagentv1.CancelResponse, error)
	// Renew replaces the connection; no call is under way.
	Renew(context.Context) error
}

// Move says what to move where. Source and Target are the nodes, From and To
// what people call them.
type Move struct {
	Guest          string
	Source, Target Node
	From, To       string

	WithoutDisks []string // serial numbers of attached disks that stay behind
	Owner        *uint32  // at the target; nil: the same
	Keep         bool     // the source's copy stays, fenced

	Stop  func(ctx context.Context) error // ends the guest at the source, which runs
	Start func(ctx context.Context) error // starts the guest at the target and sees that it is well; nil: neither

	Step     func(what string)                    // a step begins; nil: nobody wants to know
	Progress func(what string, done, total int64) // of bytes; nil: nobody wants to know
}

// Summary is what a move did.
type Summary struct {
	Total  int64 `json:"total"`  // bytes of all files
	Copied int64 `json:"copied"` // bytes that were transferred this time
}

// Verdicts checks whether the guest can move and changes nothing.
func (m *Move) Verdicts(ctx context.Context) ([]*hostagentv1.MoveVerdict, error) {
	offer, err := m.offer(ctx)
	if err != nil {
		return nil, err
	}
	switch p := offer.Place; p.Phase {
	case "", move.Leaving, move.Taken:
	default:
		return nil, fault.New(fault.Moving, "guest %s is %s in a move with %s already", m.Guest, p.Phase, p.Peer)
	}
	check, err := m.Target.Check(ctx, &hostagentv1.CheckRequest{Offer: offer, Start: m.Start != nil})
	if err != nil {
		return nil, err
	}
	return check.Verdicts, nil
}

func (m *Move) offer(ctx context.Context) (*hostagentv1.MoveOffer, error) {
	offer, err := m.Source.Offer(ctx, &hostagentv1.OfferRequest{Name: m.Guest, WithoutDisks: m.WithoutDisks})
	if err == nil && offer.Place == nil {
		err = errors.New("the source's offer is incomplete")
	}
	return offer, err
}

// Run moves the guest, or goes on with a move that was begun. Whenever it
// fails, one copy of the guest can start: before Give the source's, after Take
// the target's, and between the two the source's key makes it the target's as
// soon as Run is called again.
func (m *Move) Run(ctx context.Context) (*Summary, error) {
	sum := &Summary{}
	m.step("check the other node")
	offer, err := m.offer(ctx)
	if isCode(err, fault.NoGuest) { // it may have been removed at the end of a move
		if there, e := m.Target.Offer(ctx, &hostagentv1.OfferRequest{Name: m.Guest}); e == nil && there.Place.GetPhase() == move.Taken {
			return sum, nil
		}
	}
	if err != nil {
		return nil, err
	}
	id, copy := offer.Place.Id, ""
	var digest []byte
	switch offer.Place.Phase {
	case move.Given:
		there, err := m.Target.Offer(ctx, &hostagentv1.OfferRequest{Name: m.Guest})
		if err != nil {
			return nil, fmt.Errorf("guest %s was given to %s: %w", m.Guest, offer.Place.Peer, err)
		}
		copy = there.Place.GetCopy()
	case move.Gone:
		if m.Keep {
			return nil, fault.New(fault.Moved, "guest %s was given to %s", m.Guest, offer.Place.Peer)
		}
		return sum, m.bury(ctx, id)
	case move.Arriving, move.Arrived:
		return nil, fault.New(fault.Moving, "guest %s arrives here from %s: call secexec move there", m.Guest, offer.Place.Peer)
	default:
		if id, copy, digest, err = m.transfer(ctx, offer, sum); err != nil {
			return nil, err
		}
	}
	m.step("hand over")
	give, err := m.Source.Give(ctx, &hostagentv1.GiveRequest{Name: m.Guest, Id: id, Copy: copy, Digest: digest})
	if err != nil {
		return nil, err
	}
	if _, err := m.Target.Take(ctx, &hostagentv1.TakeRequest{Name: m.Guest, Key: give.Key, Copy: give.Copy}); err != nil {
		return nil, err
	}
	if m.Start != nil {
		if err := m.Start(ctx); err != nil {
			return nil, fmt.Errorf("guest %s is on %s now, and what is left here is kept: %w", m.Guest, m.To, err)
		}
	}
	return sum, m.bury(ctx, id)
}

func (m *Move) bury(ctx context.Context, id string) error {
	if !m.Keep {
		m.step("remove what is left here")
	}
	_, err := m.Source.Bury(ctx, &hostagentv1.BuryRequest{Name: m.Guest, Id: id, Keep: m.Keep})
	if isCode(err, fault.NoGuest) {
		return nil
	}
	return err
}

// transfer brings a complete copy to the target.
func (m *Move) transfer(ctx context.Context, offer *hostagentv1.MoveOffer, sum *Summary) (id, copy string, digest []byte, err error) {
	check, err := m.Target.Check(ctx, &hostagentv1.CheckRequest{Offer: offer, Start: m.Start != nil})
	if err != nil {
		return "", "", nil, err
	}
	for _, v := range check.Verdicts {
		if f := v.Failure; !v.Ok && f != nil {
			return "", "", nil, &fault.Error{Code: fault.Code(f.Code), Message: f.Message, Remedy: f.Remedy}
		}
	}
	if p := offer.Place; p.Phase == move.Leaving && p.Peer != m.To {
		return "", "", nil, fault.New(fault.Moving, "guest %s is being moved to %s", m.Guest, p.Peer)
	}
	if live(offer.State) {
		m.step("stop guest")
		if err := m.Stop(ctx); err != nil {
			return "", "", nil, err
		}
		// Disks may have grown since.
		if offer, err = m.offer(ctx); err != nil {
			return "", "", nil, err
		}
	}
	leave, err := m.Source.Leave(ctx, &hostagentv1.LeaveRequest{Name: m.Guest, Peer: m.To})
	if err != nil {
		return "", "", nil, err
	}
	r := &hostagentv1.ArriveRequest{Offer: offer, Id: leave.Id, Peer: m.From, OwnerUid: m.Owner}
	if p := check.Place; p != nil && p.Id != leave.Id && (p.Phase == move.Arriving || p.Phase == move.Arrived) {
		r.Replaces = p.Id // the source holds the guest, so that move is over
	}
	arrive, err := m.Target.Arrive(ctx, r)
	if err != nil {
		return "", "", nil, err
	}
	for _, f := range offer.Files {
		sum.Total += f.Size
	}
	if !arrive.Complete {
		m.step("transfer files")
		var done int64
		for _, f := range offer.Files {
			if err := m.file(ctx, leave.Id, f, done, sum); err != nil {
				return "", "", nil, fmt.Errorf("transfer %s: %w", f.Name, err)
			}
			done += f.Size
		}
	}
	m.step("check the copy")
	tell := func(done, total int64) { m.progress("check", done, total) }
	expect, err := m.Source.Seal(ctx, &hostagentv1.SealRequest{Name: m.Guest, Id: leave.Id}, tell)
	if err == nil {
		digest, err = m.Target.Seal(ctx, &hostagentv1.SealRequest{Name: m.Guest, Id: leave.Id, Expect: expect}, tell)
	}
	return leave.Id, arrive.Copy, digest, err
}

// Abort undoes a move before Give. lost says that the other node is lost for
// good, and undoes it after Give too.
func (m *Move) Abort(ctx context.Context, lost bool) error {
	offer, err := m.Source.Offer(ctx, &hostagentv1.OfferRequest{Name: m.Guest, WithoutDisks: m.WithoutDisks})
	if err != nil {
		return err
	}
	p := offer.Place
	if p.GetPhase() == "" || p.GetPhase() == move.Taken {
		return m.abandon(ctx, offer)
	}
	if _, err := m.Source.Cancel(ctx, &hostagentv1.CancelRequest{Name: m.Guest, Id: p.Id, Lost: lost}); err != nil {
		return err
	}
	if p.Phase != move.Leaving || m.Target == nil {
		return nil
	}
	// The key is gone: the copy can never start.
	_, err = m.Target.Cancel(ctx, &hostagentv1.CancelRequest{Name: m.Guest, Id: p.Id, Lost: true})
	if isCode(err, fault.NoGuest) || isCode(err, fault.Moving) { // it had not come so far
		return nil
	}
	return err
}

// abandon removes the copy that a move left which the source has ended by itself.
func (m *Move) abandon(ctx context.Context, offer *hostagentv1.MoveOffer) error {
	none := fault.New(fault.WrongState, "guest %s is in no move", m.Guest)
	if m.Target == nil {
		return none
	}
	check, err := m.Target.Check(ctx, &hostagentv1.CheckRequest{Offer: offer})
	if err != nil {
		return err
	}
	if p := check.Place; !check.Same || p.GetPhase() != move.Arriving && p.GetPhase() != move.Arrived {
		return none
	}
	_, err = m.Target.Cancel(ctx, &hostagentv1.CancelRequest{Name: m.Guest, Id: check.Place.Id, Lost: true})
	return err
}

func (m *Move) step(what string) {
	if m.Step != nil {
		m.Step(what)
	}
}

func (m *Move) progress(what string, done, total int64) {
	if m.Progress != nil {
		m.Progress(what, done, total)
	}
}

// live tells whether a guest runs, or will by itself.
func live(state string) bool { return state != "created" && state != "stopped" && state != "failed" }

func isCode(err error, code fault.Code) bool {
	var f *fault.Error
	return errors.As(err, &f) && f.Code == code
}
