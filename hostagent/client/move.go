package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Deadlines of a move's calls.
const (
	chunkTimeout  = 2 * time.Minute  // for 16 chunks to be read, by a disk that is busy
	removeTimeout = 5 * time.Minute  // for files to be removed
	sealPatience  = 15 * time.Minute // between two signs of life: the first comes once all is on the disk
)

// Mover makes a migration's calls to one hostagent. Its owner calls Close.
type Mover struct {
	dial func(context.Context) (*Client, error)
	c    *Client
	api  hostagentv1.MoverClient
}

// NewMover connects by dial, which Renew calls again.
func NewMover(ctx context.Context, dial func(context.Context) (*Client, error)) (*Mover, error) {
	m := &Mover{dial: dial}
	return m, m.Renew(ctx)
}

// Renew replaces the connection, which bears a bounded number of calls. No call
// may be under way.
func (m *Mover) Renew(ctx context.Context) error {
	c, err := m.dial(ctx)
	if err != nil {
		return err
	}
	m.Close()
	m.c, m.api = c, hostagentv1.NewMoverClient(c.conn)
	return nil
}

// Close ends the connection.
func (m *Mover) Close() {
	if m.c != nil {
		m.c.Close()
	}
}

// Client is the connection, for other calls.
func (m *Mover) Client() *Client { return m.c }

// Offer describes a guest as it would travel.
func (m *Mover) Offer(ctx context.Context, r *hostagentv1.OfferRequest) (*hostagentv1.MoveOffer, error) {
	return call(ctx, callTimeout, m.api.Offer, r)
}

// Check tells whether an offered guest can come.
func (m *Mover) Check(ctx context.Context, r *hostagentv1.CheckRequest) (*hostagentv1.CheckResponse, error) {
	return call(ctx, callTimeout, m.api.Check, r)
}

// Leave marks a guest as leaving.
func (m *Mover) Leave(ctx context.Context, r *hostagentv1.LeaveRequest) (*hostagentv1.LeaveResponse, error) {
	return call(ctx, callTimeout, m.api.Leave, r)
}

// Arrive makes room for a guest.
func (m *Mover) Arrive(ctx context.Context, r *hostagentv1.ArriveRequest) (*hostagentv1.ArriveResponse, error) {
	return call(ctx, removeTimeout, m.api.Arrive, r)
}

// Scan digests a stretch of a file.
func (m *Mover) Scan(ctx context.Context, r *hostagentv1.ScanRequest) (*hostagentv1.ScanResponse, error) {
	return call(ctx, chunkTimeout, m.api.Scan, r)
}

// Want compares a stretch.
func (m *Mover) Want(ctx context.Context, r *hostagentv1.WantRequest) (*hostagentv1.WantResponse, error) {
	return call(ctx, chunkTimeout, m.api.Want, r)
}

// Read reads a chunk.
func (m *Mover) Read(ctx context.Context, r *hostagentv1.ReadRequest) (*hostagentv1.ReadResponse, error) {
	return call(ctx, chunkTimeout, m.api.Read, r)
}

// Write writes a chunk.
func (m *Mover) Write(ctx context.Context, r *hostagentv1.WriteRequest) (*hostagentv1.WriteResponse, error) {
	return call(ctx, chunkTimeout, m.api.Write, r)
}

// Give hands a guest over to a copy.
func (m *Mover) Give(ctx context.Context, r *hostagentv1.GiveRequest) (*hostagentv1.GiveResponse, error) {
	return call(ctx, removeTimeout, m.api.Give, r)
}

// Take makes a copy the guest.
func (m *Mover) Take(ctx context.Context, r *hostagentv1.TakeRequest) (*hostagentv1.TakeResponse, error) {
	return call(ctx, callTimeout, m.api.Take, r)
}

// Bury removes a guest that was given and taken.
func (m *Mover) Bury(ctx context.Context, r *hostagentv1.BuryRequest) (*hostagentv1.BuryResponse, error) {
	return call(ctx, removeTimeout, m.api.Bury, r)
}

// Cancel ends a move.
func (m *Mover) Cancel(ctx context.Context, r *hostagentv1.CancelRequest) (*hostagentv1.CancelResponse, error) {
	return call(ctx, removeTimeout, m.api.Cancel, r)
}

var errSilent = errors.New("hostagent tells nothing")

// Seal digests all files of a guest in a move, and tells how far it is.
func (m *Mover) Seal(ctx context.Context, r *hostagentv1.SealRequest, progress func(done, total int64)) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(sealPatience, func() { cancel(fmt.Errorf("%w for %s", errSilent, sealPatience)) })
	defer silent.Stop()
	stream, err := m.api.Seal(ctx, r)
	if err != nil {
		return nil, fromStatus(err)
	}
	for {
		p, err := stream.Recv()
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("call hostagent: %w", context.Cause(ctx))
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("call hostagent: %w", ErrClosed)
		case err != nil:
			return nil, fromStatus(err)
		case len(p.Digest) > 0:
			return p.Digest, nil
		}
		silent.Reset(sealPatience)
		progress(p.Done, p.Total)
	}
}
