package api

import (
	"context"
	"fmt"

	"github.com/secexec/secexec/hostagent/roots"
)

// Caller is who speaks on a connection.
type Caller struct {
	UID   uint32
	GIDs  []uint32 // all of its groups
	Admin bool     // sees and changes all guests; a tenant does its own
	From  string   // where it calls from, for logs
}

type callerKey struct{}

// WithCaller gives a connection's calls their caller.
func WithCaller(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns who makes a call. Without a gate there is none, and nobody
// may do anything.
func CallerOf(ctx context.Context) *Caller {
	if c, ok := ctx.Value(callerKey{}).(*Caller); ok {
		return c
	}
	return &Caller{UID: nobody, From: "nowhere"}
}

// nobody owns no guest: uid_t's one value that no process can have.
const nobody = ^uint32(0)

// Sees tells whether guests of an owner exist for the caller.
func (c *Caller) Sees(owner uint32) bool { return c.Admin || c.UID == owner && owner != nobody }

// reader is whose rights decide what the caller may have read, nil: hostagent's.
func (c *Caller) reader() *roots.Reader {
	if c.Admin {
		return nil
	}
	return &roots.Reader{UID: c.UID, GIDs: c.GIDs}
}

func (c *Caller) String() string { return fmt.Sprintf("uid %d from %s", c.UID, c.From) }
