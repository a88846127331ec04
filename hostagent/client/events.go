package client

import (
	"context"
	"errors"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Stream follows events. It goes on when hostagent is started anew or the
// connection is cut: behind the last event if hostagent still has what followed,
// and otherwise with what differs from the guests as it last saw them. One
// goroutine uses it, and the client's other calls.
type Stream struct {
	ctx  context.Context
	c    *Client
	name string

	events hostagentv1.Hostagent_EventsClient
	epoch  string
	after  uint64
	missed bool                          // events were, and what came of them is not known yet
	known  map[string]*hostagentv1.Guest // as last seen
	caught []*hostagentv1.Event          // what differed, not returned yet
}

// Events subscribes to the events of a guest, or with "" of all. When it
// returns, nothing from then on is missed; the context ends the subscription.
func (c *Client) Events(ctx context.Context, name string) (*Stream, error) {
	s := &Stream{ctx: ctx, c: c, name: name}
	if err := s.open(); err != nil {
		return nil, err
	}
	guests, err := s.list()
	if err != nil {
		return nil, err
	}
	s.known = guests
	c.answered = true
	return s, nil
}

// Next waits for the next event. Its Sequence is 0 if the event itself was missed
// and this is what came of it.
func (s *Stream) Next() (*hostagentv1.Event, error) {
	e, err := again(s.ctx, s.c, s.next)
	if err != nil {
		return nil, err
	}
	if e.Deleted {
		delete(s.known, e.Guest.Name)
	} else {
		s.known[e.Guest.Name] = e.Guest
	}
	return e, nil
}

func (s *Stream) next() (*hostagentv1.Event, error) {
	if len(s.caught) == 0 && s.events == nil {
		if err := s.resume(); err != nil {
			return nil, err
		}
	}
	if len(s.caught) > 0 {
		e := s.caught[0]
		s.caught = s.caught[1:]
		return e, nil
	}
	for {
		e, err := s.events.Recv()
		if err != nil {
			s.events = nil
			if err := fromStatus(err); isGone(err) { // too far behind
				return s.next()
			}
			return nil, fromStatus(err)
		}
		s.epoch, s.after = e.Epoch, e.Sequence
		if e.Guest != nil {
			return e, nil
		}
	}
}

// open subscribes behind the last event seen, the first time from now on.
func (s *Stream) open() error {
	events, err := s.c.api.Events(s.ctx, &hostagentv1.EventsRequest{Name: s.name, Epoch: s.epoch, After: s.after})
	if err != nil {
		return fromStatus(err)
	}
	greeting, err := events.Recv()
	if err != nil {
		return fromStatus(err)
	}
	s.events, s.epoch, s.after = events, greeting.Epoch, greeting.Sequence
	return nil
}

// resume opens the stream again: where it ended or, once hostagent has said that
// this is not possible, from now on and with a look at all guests.
func (s *Stream) resume() error {
	if !s.missed {
		err := s.open()
		if !isGone(err) && !s.removed(err) {
			return err
		}
		s.missed = true
	}
	s.epoch, s.after = "", 0
	guests := map[string]*hostagentv1.Guest{}
	err := s.open()
	if err == nil {
		guests, err = s.list()
	} else if s.removed(err) {
		err = nil
	}
	if err != nil {
		s.events = nil
		return err
	}
	s.missed = false
	for _, name := range slices.Sorted(maps.Keys(guests)) {
		if old := s.known[name]; old == nil || !proto.Equal(old, guests[name]) {
			s.caught = append(s.caught, &hostagentv1.Event{Epoch: s.epoch, TimeUnixMs: now(), Guest: guests[name]})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.known)) {
		if guests[name] == nil {
			s.caught = append(s.caught, &hostagentv1.Event{Epoch: s.epoch, TimeUnixMs: now(), Guest: s.known[name], Deleted: true})
		}
	}
	return nil
}

// list returns the guests that the stream is about.
func (s *Stream) list() (map[string]*hostagentv1.Guest, error) {
	guests := make(map[string]*hostagentv1.Guest)
	if s.name != "" {
		g, err := call(s.ctx, callTimeout, s.c.api.Get, &hostagentv1.NameRequest{Name: s.name})
		if err == nil {
			guests[g.Name] = g
		} else if isCode(err, fault.NoGuest) {
			err = nil
		}
		return guests, err
	}
	all, err := call(s.ctx, callTimeout, s.c.api.List, &hostagentv1.ListRequest{})
	if err != nil {
		return nil, err
	}
	for _, g := range all.Guests {
		guests[g.Name] = g
	}
	return guests, nil
}

// removed tells whether the one guest that the stream follows is no more.
func (s *Stream) removed(err error) bool { return len(s.known) > 0 && isCode(err, fault.NoGuest) }

func isGone(err error) bool { return isCode(err, fault.EventsGone) }

func isCode(err error, code fault.Code) bool {
	var f *fault.Error
	return errors.As(err, &f) && f.Code == code
}
