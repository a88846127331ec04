package api

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Bounds of an offer.
const (
	maxSlots   = 512     // of an image, which has 95 at most
	maxFiles   = 64      // of a guest
	spareSpace = 1 << 26 // bytes that a move leaves free
)

// Check implements the service.
func (s *Mover) Check(ctx context.Context, r *hostagentv1.CheckRequest) (*hostagentv1.CheckResponse, error) {
	out := &hostagentv1.CheckResponse{Place: &hostagentv1.MovePlace{}}
	verdicts, rec, _ := s.look(ctx, r.Offer)
	out.Verdicts = verdicts
	if rec == nil {
		return out, nil
	}
	if r.Start {
		out.Verdicts = append(out.Verdicts, verdict("room", s.room(rec), "beside the guests that run"))
	}
	name := verdict("name", nil, "free")
	if g, err := s.Fleet.Get(rec.Name); err == nil {
		there := g.Snapshot()
		out.Place, out.State, out.Same = place(&there), there.State, there.UUID == rec.UUID
		switch phase := move.PhaseOf(&there); {
		case out.Same && (phase == move.Arriving || phase == move.Arrived || phase == move.Gone):
			name.Words = "the guest's copy is here, " + phase
		case out.Same:
			name = verdict("name", fault.New(fault.Unfit, "guest %s is on that node already", rec.Name), "")
		default:
			name = verdict("name", fault.New(fault.NameTaken, "there is a guest %s already", rec.Name), "")
		}
	}
	out.Verdicts = append(out.Verdicts, name)
	return out, nil
}

// look judges an offer. The record and sizes are nil if the offer can't be read.
func (s *Mover) look(ctx context.Context, o *hostagentv1.MoveOffer) (out []*hostagentv1.MoveVerdict, rec *store.Guest, sizes map[string]int64) {
	add := func(what string, err error, words string) { out = append(out, verdict(what, err, words)) }
	if len(o.GetFiles()) > maxFiles || len(o.GetKeySlots()) > maxSlots {
		add("record", fault.New(fault.BadRequest, "an offer of %d files and %d key slots", len(o.Files), len(o.KeySlots)), "")
		return out, nil, nil
	}
	rec, err := move.Arrival(o.GetRecord())
	var total int64
	if err == nil {
		sizes = make(map[string]int64)
		for _, f := range o.Files {
			sizes[f.Name] = f.Size
		}
		total, err = move.CheckSizes(rec, sizes)
	}
	if err != nil {
		add("record", err, "")
		return out, nil, nil
	}
	add("record", nil, fmt.Sprintf("%d files, %d MiB", len(sizes), total>>20))
	p := s.Fleet.Platform
	if o.Protected && !p.Protected() {
		err = fault.New(fault.Unfit, "platform %s protects no guest, and guest %s is protected where it is", p.Name(), rec.Name)
	}
	add("platform", err, p.Name())
	out = append(out, s.slotVerdict(o.KeySlots))
	facts, err := platform.Facts(ctx, p, nil, s.Fleet.QEMU)
	if err != nil {
		add("node", fault.New(fault.Node, "%w", err), "")
	} else {
		add("node", nil, "QEMU "+facts.QEMU.String())
	}
	add("size", s.Fleet.Fits(rec), fmt.Sprintf("%d MiB of memory, %d CPUs", rec.MemoryMiB, rec.CPUs))
	out = append(out, s.spaceVerdict(rec, o.Files), networkVerdict(rec))
	for _, g := range s.Fleet.List() {
		if other := g.Snapshot(); other.UUID == rec.UUID && other.Name != rec.Name {
			add("uuid", fault.New(fault.NameTaken, "guest %s is here already, as %s", rec.Name, other.Name), "")
		}
	}
	return out, rec, sizes
}

func (s *Mover) room(rec *store.Guest) error {
	err := s.Fleet.Room(rec.MemoryMiB, rec.CPUs)
	if f := fault.As(err); err != nil && f.Code == fault.TooLarge { // told as its size
		return nil
	}
	return err
}

// slotVerdict tells whether any of an image's key slots is for this node.
func (s *Mover) slotVerdict(slots []string) *hostagentv1.MoveVerdict {
	hashes, err := s.Fleet.Platform.HostKeyHashes()
	switch {
	case errors.Is(err, platform.ErrHashesUnknown):
		return verdict("key slot", nil, "this node does not tell its host keys: firmware decides when the guest starts")
	case err != nil:
		return verdict("key slot", fault.New(fault.Node, "%w", err), "")
	}
	for _, hash := range hashes {
		if text := hex.EncodeToString(hash[:]); slices.Contains(slots, text) {
			return verdict("key slot", nil, "for host key "+text[:8]+"…")
		}
	}
	var here []string
	for _, hash := range hashes[:min(len(hashes), 8)] {
		here = append(here, hex.EncodeToString(hash[:4])+"…")
	}
	return verdict("key slot", fault.New(fault.NoSlot, "none of the image's %d key slots is for that node, whose host keys are %v", len(slots), here), "")
}

// spaceVerdict compares what the guest's files take on the other node's disk
// with what is free here beside what has arrived already.
func (s *Mover) spaceVerdict(rec *store.Guest, files []*hostagentv1.MoveFile) *hostagentv1.MoveVerdict {
	dir := s.Fleet.Store.Dir(rec.Name)
	free, err := move.Free(filepath.Dir(dir))
	if err != nil {
		return verdict("space", fault.New(fault.Storage, "%w", err), "")
	}
	var need int64
	for _, f := range files {
		need += min(max(f.Allocated, 0), f.Size+move.ChunkSize)
		if d, err := move.OpenDisk(dir, f.Name, false, 0); err == nil {
			need -= min(d.Allocated(), f.Allocated)
			d.Close()
		}
	}
	return verdict("space", over(need > 0 && need > free-spareSpace, "guest %s needs %d MiB on the disk, %d MiB are free", rec.Name, need>>20, free>>20),
		fmt.Sprintf("%d MiB to come, %d MiB free", max(0, need)>>20, free>>20))
}

// networkVerdict wants the taps that the guest is attached to.
func networkVerdict(rec *store.Guest) *hostagentv1.MoveVerdict {
	for _, n := range rec.Networks {
		if n.Kind != "tap" {
			continue
		}
		if _, err := os.Stat(filepath.Join("/sys/class/net", n.Tap)); err != nil {
			return verdict("network", fault.New(fault.Unfit, "guest %s is attached to interface %s, which that node does not have", rec.Name, n.Tap), "")
		}
	}
	return verdict("network", nil, fmt.Sprintf("%d interfaces", len(rec.Networks)))
}

func over(is bool, format string, args ...any) error {
	if is {
		return fault.New(fault.Unfit, format, args...)
	}
	return nil
}

func verdict(what string, err error, words string) *hostagentv1.MoveVerdict {
	if err == nil {
		return &hostagentv1.MoveVerdict{What: what, Ok: true, Words: words}
	}
	f := fault.As(err)
	return &hostagentv1.MoveVerdict{What: what, Words: f.Message, Failure: &hostagentv1.Failure{Code: string(f.Code), Message: f.Message, Remedy: f.Remedy}}
}
