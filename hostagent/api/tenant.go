package api

import (
	"context"
	"errors"
	"os"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/roots"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Roots are the folders beneath which lie what callers name.
type Roots struct {
	Admins  roots.Roots // their bundles; none: anywhere
	Tenants roots.Roots // their bundles; none: nowhere
	Disks   roots.Roots // that administrators attach; none: anywhere
}

// checkDisks refuses disks that don't lie beneath the folders for them.
func (r Roots) checkDisks(disks []*hostagentv1.Disk) error {
	for _, d := range disks {
		if len(r.Disks) == 0 {
			break
		}
		f, err := r.Disks.File(d.Path, nil, os.O_RDONLY, true)
		if errors.Is(err, roots.ErrRefused) {
			return fault.New(fault.Path, "attach disk: %w", err)
		} else if err == nil {
			f.Close()
		} // else it is looked at again by who knows disks
	}
	return nil
}

// find returns a guest of the caller's. Another's is as if it did not exist.
//
// What is done next is done to this guest: its name may be another tenant's by
// then, so calls don't look it up twice.
func (s *Service) find(ctx context.Context, name string) (*guest.Guest, error) {
	g, err := s.Fleet.Get(name)
	if err == nil && !CallerOf(ctx).Sees(g.Owner()) {
		return nil, fault.New(fault.NoGuest, "there is no guest %.80q", name)
	}
	return g, err
}

// visible returns the caller's guests by name.
func (s *Service) visible(ctx context.Context) []*guest.Guest {
	caller := CallerOf(ctx)
	all := s.Fleet.List()
	if caller.Admin {
		return all
	}
	var own []*guest.Guest
	for _, g := range all {
		if caller.Sees(g.Owner()) {
			own = append(own, g)
		}
	}
	return own
}

// forCaller adds to a request what depends on who asks. done is called when the
// request has been carried out.
func (s *Service) forCaller(c *Caller, r *hostagentv1.CreateRequest, to *guest.Request) (done func(), err error) {
	to.Owner, to.Admin = c.UID, c.Admin
	allowed := s.Roots.Admins
	if len(allowed) == 0 {
		allowed = roots.Roots{"/"}
	}
	done = func() {}
	if err := s.Roots.checkDisks(r.Disks); err != nil {
		return nil, err
	}
	if !c.Admin {
		if err := checkTenant(r); err != nil {
			return nil, err
		}
		allowed = s.Roots.Tenants
		to.Reserve = func(a guest.Ask) (func(), error) { return s.reserve(c.UID, a, s.usage) }
		if done, err = s.turn(c.UID); err != nil {
			return nil, err
		}
	}
	to.Folder = func() (bundle.Folder, error) {
		f, err := allowed.Folder(r.Bundle, c.reader())
		switch {
		case err == nil:
			return folder{f}, nil
		case errors.Is(err, roots.ErrRefused):
			return nil, fault.New(fault.Path, "open bundle: %w", err)
		}
		return nil, fault.New(fault.Bundle, "open bundle: %w", err)
	}
	return done, nil
}

// usage is what a user's guests take.
func (s *Service) usage(uid uint32) (all []guest.Ask) {
	for _, g := range s.Fleet.List() {
		if g.Owner() == uid {
			all = append(all, g.Ask())
		}
	}
	return all
}

// folder tells refusals of a bundle's parts apart from what is missing.
type folder struct{ *roots.Folder }

// Open implements bundle.Folder.
func (f folder) Open(name string) (*os.File, error) {
	file, err := f.Folder.Open(name)
	if errors.Is(err, roots.ErrRefused) {
		return nil, fault.New(fault.Path, "%w", err)
	}
	return file, err
}
