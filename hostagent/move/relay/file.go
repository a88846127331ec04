package relay

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

const (
	parallel     = 4     // chunks under way, which bounds memory
	renewalSteps = 16384 // stretches, of 17 calls to a node at most: a connection bears a million
)

// errStretch says that the source describes a file that can't be.
var errStretch = errors.New("the source gives a stretch that no such file has")

// file transfers what the target lacks of a file, stretch by stretch. A
// transfer that was cut off needs no other way: what the target has is not
// wanted again.
func (m *Move) file(ctx context.Context, id string, f *hostagentv1.MoveFile, before int64, sum *Summary) error {
	total := sum.Total
	for offset, step := int64(0), 1; ; step++ {
		scan, err := m.Source.Scan(ctx, &hostagentv1.ScanRequest{Name: m.Guest, Id: id, File: f.Name, Offset: offset})
		if err != nil {
			return err
		}
		stretch := &move.Stretch{Start: scan.Start, Next: scan.Next, End: scan.End}
		const size = len(move.Digest{})
		if len(scan.Digests) > move.Window*size {
			return errStretch
		}
		for d := scan.Digests; len(d) >= size; d = d[size:] {
			stretch.Digests = append(stretch.Digests, move.Digest(d[:size]))
		}
		if len(scan.Digests)%size != 0 || stretch.Check(offset, f.Size) != nil {
			return errStretch
		}
		want, err := m.Target.Want(ctx, &hostagentv1.WantRequest{
			Name: m.Guest, Id: id, File: f.Name, Offset: offset, Start: scan.Start, Digests: scan.Digests, End: scan.End,
		})
		if err != nil {
			return err
		}
		if err := m.chunks(ctx, id, f, stretch, want.Chunks, sum); err != nil {
			return err
		}
		offset = stretch.Next
		m.progress("transfer", before+offset, total)
		if stretch.End {
			return nil
		}
		if step%renewalSteps == 0 {
			if err := errors.Join(m.Source.Renew(ctx), m.Target.Renew(ctx)); err != nil {
				return err
			}
		}
	}
}

// chunks transfers some chunks of a stretch.
func (m *Move) chunks(ctx context.Context, id string, f *hostagentv1.MoveFile, s *move.Stretch, chunks []uint32, sum *Summary) error {
	if len(chunks) > len(s.Digests) {
		return errors.New("the target wants more chunks than there are")
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, n := range chunks {
		if int(n) >= len(s.Digests) {
			_ = g.Wait()
			return errors.New("the target wants a chunk that there is not")
		}
		at, digest := s.Start+int64(n)*move.ChunkSize, s.Digests[n]
		sum.Copied += min(move.ChunkSize, f.Size-at)
		g.Go(func() error {
			r, err := m.Source.Read(ctx, &hostagentv1.ReadRequest{Name: m.Guest, Id: id, File: f.Name, Offset: at})
			if err != nil {
				return err
			}
			_, err = m.Target.Write(ctx, &hostagentv1.WriteRequest{Name: m.Guest, Id: id, File: f.Name, Offset: at, Data: r.Data, Sha256: digest[:]})
			return err
		})
	}
	return g.Wait()
}
