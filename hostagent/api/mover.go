package api

import (
	"context"
	"encoding/hex"
	"sync"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/journal"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/seimage"
)

// maxTransfers is how many calls that handle chunks are worked on at a time: it
// bounds their memory, whoever calls.
const maxTransfers = 4

// Mover implements hostagentv1.MoverService.
type Mover struct {
	*Service
	slots chan struct{} // held (sent) by calls that handle chunks

	mu    sync.Mutex
	works map[string]*work // by guest
}

var _ hostagentv1.MoverService = (*Mover)(nil)

// NewMover returns the service of a fleet's migrations.
func NewMover(s *Service) *Mover {
	return &Mover{Service: s, slots: make(chan struct{}, maxTransfers), works: make(map[string]*work)}
}

// Offer implements the service.
func (s *Mover) Offer(_ context.Context, r *hostagentv1.OfferRequest) (*hostagentv1.MoveOffer, error) {
	g, err := s.Fleet.Get(r.Name)
	if err != nil {
		return nil, toStatus(err)
	}
	rec := g.Snapshot()
	offer, err := s.offer(g, &rec, r.WithoutDisks)
	if err != nil {
		return nil, toStatus(err)
	}
	return offer, nil
}

func (s *Mover) offer(g *guest.Guest, rec *store.Guest, without []string) (*hostagentv1.MoveOffer, error) {
	out := &hostagentv1.MoveOffer{Platform: s.Fleet.Platform.Name(), Protected: s.Fleet.Platform.Protected(), State: rec.State, Place: place(rec)}
	if move.Fenced(rec) {
		return out, nil // its files are not this node's to offer
	}
	sent, missed, err := move.Travel(rec, without)
	if err != nil {
		return nil, err
	}
	for _, d := range missed {
		return nil, fault.New(fault.Unfit, "disk %s of guest %s is this node's %s and does not travel: detach it, or leave it behind with --without-disk %s", d.Serial, rec.Name, d.Path, d.Serial)
	}
	if out.Record, err = store.Encode(sent); err != nil {
		return nil, fault.New(fault.Internal, "%w", err)
	}
	for _, name := range move.Files(rec) {
		d, err := move.OpenDisk(g.Dir(), name, false, 0)
		if err != nil {
			return nil, fault.New(fault.Storage, "open file of guest %s: %w", rec.Name, err)
		}
		out.Files = append(out.Files, &hostagentv1.MoveFile{Name: name, Size: d.Size(), Allocated: d.Allocated()})
		if name == rec.Image {
			if slots, err := keySlots(d); err == nil {
				out.KeySlots = slots
			} else {
				d.Close()
				return nil, fault.New(fault.Bundle, "read image of guest %s: %w", rec.Name, err)
			}
		}
		d.Close()
	}
	return out, nil
}

// keySlots are the hashes of the host keys that can start an image.
func keySlots(d *move.Disk) (out []string, err error) {
	img, err := seimage.Open(d, d.Size())
	if err != nil {
		return nil, err
	}
	for _, slot := range img.Header.Slots {
		out = append(out, hex.EncodeToString(slot.HostHash[:]))
	}
	return out, nil
}

func place(rec *store.Guest) *hostagentv1.MovePlace {
	if rec.Move == nil {
		return &hostagentv1.MovePlace{}
	}
	return &hostagentv1.MovePlace{Phase: rec.Move.Phase, Id: move.IDOf(rec), Copy: rec.Move.Copy, Peer: rec.Move.Peer}
}

// Leave implements the service.
func (s *Mover) Leave(ctx context.Context, r *hostagentv1.LeaveRequest) (*hostagentv1.LeaveResponse, error) {
	g, err := s.Fleet.Get(r.Name)
	if err == nil && (r.Peer == "" || len(r.Peer) > maxPath) {
		err = fault.New(fault.BadRequest, "the other node has no name")
	}
	var id string
	if err == nil {
		id, err = g.Leave(ctx, r.Peer)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	s.tell(r.Name, move.Leaving, r.Peer, id)
	return &hostagentv1.LeaveResponse{Id: id}, nil
}

// Arrive implements the service.
func (s *Mover) Arrive(ctx context.Context, r *hostagentv1.ArriveRequest) (*hostagentv1.ArriveResponse, error) {
	m, err := s.arrive(ctx, r)
	if err != nil {
		return nil, toStatus(err)
	}
	return &hostagentv1.ArriveResponse{Copy: m.Copy, Complete: m.Phase == move.Arrived}, nil
}

func (s *Mover) arrive(ctx context.Context, r *hostagentv1.ArriveRequest) (*store.Move, error) {
	if !move.IsID(r.Id) || r.Peer == "" || len(r.Peer) > maxPath {
		return nil, fault.New(fault.BadRequest, "the move has no id or the other node no name")
	}
	verdicts, rec, sizes := s.look(ctx, r.Offer)
	for _, v := range verdicts {
		if !v.Ok {
			return nil, &fault.Error{Code: fault.Code(v.Failure.Code), Message: v.Failure.Message, Remedy: v.Failure.Remedy}
		}
	}
	for _, size := range sizes {
		rec.DiskBytes += size
	}
	if r.OwnerUid != nil {
		rec.Owner = *r.OwnerUid
	}
	w := s.work(rec.Name, r.Id)
	w.files.Lock()
	defer w.files.Unlock()
	g, err := s.Fleet.Arrive(ctx, rec, r.Id, r.Peer, r.Replaces)
	if err != nil {
		return nil, err
	}
	is := g.Snapshot()
	if err := move.In(&is, r.Id, move.Arriving, move.Arrived); err != nil {
		return nil, err
	}
	if is.Move.Phase == move.Arriving {
		err = g.MakeRoom(r.Id, sizes)
	}
	s.tell(rec.Name, is.Move.Phase, r.Peer, r.Id)
	return is.Move, err
}

// Give implements the service. Only here is the source's own digest compared
// with the target's.
func (s *Mover) Give(ctx context.Context, r *hostagentv1.GiveRequest) (*hostagentv1.GiveResponse, error) {
	g, err := s.Fleet.Get(r.Name)
	if err != nil {
		return nil, toStatus(err)
	}
	rec := g.Snapshot()
	if !move.IsID(r.Copy) {
		return nil, toStatus(fault.New(fault.BadRequest, "copy %.80q has no name", r.Copy))
	}
	if move.PhaseOf(&rec) == move.Leaving {
		sum, _, err := s.sum(ctx, g, r.Id, false, nil) // at once, if Seal was called
		if err != nil {
			return nil, toStatus(err)
		}
		if string(r.Digest) != string(sum[:]) {
			return nil, toStatus(fault.New(fault.Altered, "the copy of guest %s differs from what is here", r.Name))
		}
	}
	key, err := g.Give(ctx, r.Id, r.Copy)
	if err != nil {
		return nil, toStatus(err)
	}
	s.tell(r.Name, move.Given, place(&rec).Peer, r.Id)
	return &hostagentv1.GiveResponse{Key: key, Copy: r.Copy}, nil
}

// Take implements the service.
func (s *Mover) Take(_ context.Context, r *hostagentv1.TakeRequest) (*hostagentv1.TakeResponse, error) {
	g, err := s.Fleet.Get(r.Name)
	if err == nil && !move.IsID(r.Key) {
		err = fault.New(fault.BadRequest, "this is no move's key")
	}
	if err == nil {
		err = g.Take(r.Key, r.Copy)
	}
	if err != nil {
		return nil, toStatus(err)
	}
	rec := g.Snapshot()
	s.tell(r.Name, move.Taken, place(&rec).Peer, move.ID(r.Key))
	return &hostagentv1.TakeResponse{}, nil
}

// Bury implements the service.
func (s *Mover) Bury(ctx context.Context, r *hostagentv1.BuryRequest) (*hostagentv1.BuryResponse, error) {
	if err := s.Fleet.Bury(ctx, r.Name, r.Id, r.Keep); err != nil {
		return nil, toStatus(err)
	}
	s.tell(r.Name, move.Gone, "", r.Id)
	return &hostagentv1.BuryResponse{}, nil
}

// Cancel implements the service.
func (s *Mover) Cancel(ctx context.Context, r *hostagentv1.CancelRequest) (*hostagentv1.CancelResponse, error) {
	if err := s.Fleet.CancelMove(ctx, r.Name, r.Id, r.Lost); err != nil {
		return nil, toStatus(err)
	}
	s.tell(r.Name, "cancelled", "", r.Id)
	return &hostagentv1.CancelResponse{}, nil
}

// tell logs how far a move is.
func (s *Mover) tell(name, phase, peer, id string) {
	s.Fleet.Log.Info("guest moves", journal.Moving, "guest", name, "phase", phase, "peer", peer, "move", id)
}
