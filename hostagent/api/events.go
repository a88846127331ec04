package api

import (
	"context"
	"time"

	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Events implements the service. The first event of a stream comes at once and
// holds no guest: it tells epoch and place, and behind it nothing is missed.
func (s *Service) Events(ctx context.Context, r *hostagentv1.EventsRequest, stream hostagentv1.Hostagent_EventsServer) error {
	hub, caller := s.Fleet.Hub, CallerOf(ctx)
	if r.Name != "" && r.Epoch == "" { // the end of one that was there is among what follows
		if _, err := s.find(ctx, r.Name); err != nil {
			return toStatus(err)
		}
	}
	events := hub.Subscribe()
	if r.Epoch != "" {
		var err error
		if events, err = hub.Resume(r.Epoch, r.After); err != nil {
			return toStatus(err)
		}
	}
	err := stream.Send(&hostagentv1.Event{Epoch: hub.Epoch(), Sequence: events.After(), TimeUnixMs: time.Now().UnixMilli()})
	for err == nil {
		var e guest.Event
		if e, err = events.Next(ctx); err != nil {
			return toStatus(err)
		}
		if (r.Name == "" || r.Name == e.Guest.Name) && caller.Sees(e.Guest.Owner) {
			err = stream.Send(&hostagentv1.Event{
				Epoch: hub.Epoch(), Sequence: e.Sequence, TimeUnixMs: e.Time.UnixMilli(), Guest: s.show(*e.Guest), Deleted: e.Deleted,
			})
		}
	}
	return err
}
