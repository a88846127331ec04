package api

import (
	"context"
	"sync"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/move"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// work is what is remembered of a guest's transfer, for as long as hostagent
// runs; without it files are read once more.
type work struct {
	id    string
	files *sync.RWMutex // the guest's; read: a chunk is written; write: files are sealed or made

	mu   sync.Mutex
	sums map[string]*move.Sum // source: of files, as far as they were scanned
}

// work returns what is known of a guest's move, and forgets earlier ones.
func (s *Mover) work(name, id string) *work {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.works[name]
	if w == nil {
		w = &work{files: new(sync.RWMutex)}
	}
	if w.id != id || w.sums == nil {
		w = &work{id: id, files: w.files, sums: make(map[string]*move.Sum)}
		s.works[name] = w
	}
	return w
}

// Scan implements the service.
func (s *Mover) Scan(ctx context.Context, r *hostagentv1.ScanRequest) (*hostagentv1.ScanResponse, error) {
	out := &hostagentv1.ScanResponse{}
	err := s.file(ctx, r.Name, r.Id, r.File, false, func(d *move.Disk, w *work) error {
		stretch, err := move.Scan(ctx, d, r.Offset)
		if err != nil {
			return err
		}
		w.mu.Lock()
		if w.sums[r.File] == nil {
			w.sums[r.File] = move.NewSum()
		}
		w.sums[r.File].Add(r.Offset, stretch)
		w.mu.Unlock()
		out.Start, out.Next, out.End = stretch.Start, stretch.Next, stretch.End
		for _, digest := range stretch.Digests {
			out.Digests = append(out.Digests, digest[:]...)
		}
		return nil
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return out, nil
}

// Want implements the service.
func (s *Mover) Want(ctx context.Context, r *hostagentv1.WantRequest) (*hostagentv1.WantResponse, error) {
	n := len(r.Digests) / len(move.Digest{})
	if len(r.Digests)%len(move.Digest{}) != 0 || n > move.Window {
		return nil, toStatus(fault.New(fault.BadRequest, "%d bytes are no digests", len(r.Digests)))
	}
	out := &hostagentv1.WantResponse{}
	err := s.file(ctx, r.Name, r.Id, r.File, true, func(d *move.Disk, _ *work) (err error) {
		stretch := &move.Stretch{Start: r.Start, Next: min(d.Size(), r.Start+int64(n)*move.ChunkSize), End: r.End}
		if r.End {
			stretch.Next = d.Size()
		}
		for i := range n {
			stretch.Digests = append(stretch.Digests, move.Digest(r.Digests[i*len(move.Digest{}):]))
		}
		out.Chunks, err = stretch.Want(ctx, d, r.Offset)
		return err
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return out, nil
}

// Read implements the service.
func (s *Mover) Read(ctx context.Context, r *hostagentv1.ReadRequest) (*hostagentv1.ReadResponse, error) {
	out := &hostagentv1.ReadResponse{}
	err := s.file(ctx, r.Name, r.Id, r.File, false, func(d *move.Disk, _ *work) (err error) {
		out.Data, err = move.ReadChunk(d, r.Offset)
		return err
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return out, nil
}

// Write implements the service.
func (s *Mover) Write(ctx context.Context, r *hostagentv1.WriteRequest) (*hostagentv1.WriteResponse, error) {
	if len(r.Sha256) != len(move.Digest{}) {
		return nil, toStatus(fault.New(fault.BadRequest, "a chunk has no digest"))
	}
	err := s.file(ctx, r.Name, r.Id, r.File, true, func(d *move.Disk, _ *work) error {
		return move.WriteChunk(d, r.Offset, r.Data, move.Digest(r.Sha256))
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return &hostagentv1.WriteResponse{}, nil
}

// file does something with a file of a guest in a move.
func (s *Mover) file(ctx context.Context, name, id, file string, write bool, do func(*move.Disk, *work) error) error {
	g, err := s.Fleet.Get(name)
	if err != nil {
		return err
	}
	rec := g.Snapshot()
	if rec.Move == nil || move.IDOf(&rec) != id {
		return move.In(&rec, id, move.Leaving)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	w := s.work(name, id)
	if write {
		w.files.RLock() // waits for a seal, after which the phase is another
		defer w.files.RUnlock()
	}
	d, err := g.MovedFile(id, file, write)
	if err != nil {
		return err
	}
	defer d.Close()
	return do(d, w)
}

// Seal implements the service.
func (s *Mover) Seal(ctx context.Context, r *hostagentv1.SealRequest, stream hostagentv1.Mover_SealServer) error {
	g, err := s.Fleet.Get(r.Name)
	if err != nil {
		return toStatus(err)
	}
	rec := g.Snapshot()
	if rec.Move == nil || move.IDOf(&rec) != r.Id {
		return toStatus(move.In(&rec, r.Id, move.Leaving))
	}
	arriving := rec.Move.Phase == move.Arriving || rec.Move.Phase == move.Arrived
	if arriving {
		w := s.work(r.Name, r.Id)
		w.files.Lock() // chunks that are being written come first
		defer w.files.Unlock()
	}
	progress := func(done, total int64) error {
		return stream.Send(&hostagentv1.SealProgress{Done: done, Total: total})
	}
	sum, total, err := s.sum(ctx, g, r.Id, arriving, progress)
	if err == nil && arriving {
		if string(r.Expect) != string(sum[:]) {
			err = fault.New(fault.Altered, "the copy of guest %s differs from what is sent", r.Name)
		} else if err = s.admitArrived(g); err == nil {
			err = g.Seal(r.Id) // its record's flush makes the folder's entries last too
		}
	}
	if err != nil {
		return toStatus(err)
	}
	if arriving {
		s.tell(r.Name, move.Arrived, rec.Move.Peer, r.Id)
	}
	return stream.Send(&hostagentv1.SealProgress{Done: total, Total: total, Digest: sum[:]})
}

// progressStep is after how many bytes Seal tells how far it is.
const progressStep = 64 << 20

// sum digests all files of a guest in a move: of a leaving guest what was not
// scanned yet, of an arriving one all, from its disk.
func (s *Mover) sum(ctx context.Context, g *guest.Guest, id string, arriving bool, progress func(done, total int64) error) (sum [32]byte, total int64, err error) {
	rec := g.Snapshot()
	phases := []string{move.Leaving}
	if arriving {
		phases = []string{move.Arriving, move.Arrived}
	}
	if err := move.In(&rec, id, phases...); err != nil {
		return sum, 0, err
	}
	files := move.Files(&rec)
	var disks []*move.Disk
	defer func() {
		for _, d := range disks {
			d.Close()
		}
	}()
	for _, name := range files {
		d, err := move.OpenDisk(g.Dir(), name, false, 0)
		if err != nil {
			return sum, 0, fault.New(fault.Storage, "open file of guest %s: %w", rec.Name, err)
		}
		disks = append(disks, d)
		total += d.Size()
		if arriving {
			if err := d.Settle(); err != nil {
				return sum, 0, fault.New(fault.Storage, "write file of guest %s: %w", rec.Name, err)
			}
		}
	}
	w := s.work(rec.Name, id)
	var digests [][32]byte
	var done, told int64
	for i, d := range disks {
		t := move.NewSum()
		if !arriving {
			w.mu.Lock()
			if w.sums[files[i]] != nil {
				t = w.sums[files[i]]
			}
			w.sums[files[i]] = nil // nobody else adds to it meanwhile
			w.mu.Unlock()
		}
		for {
			offset, end := t.Next()
			if progress != nil && done+offset-told >= progressStep {
				told = done + offset
				if err := progress(told, total); err != nil {
					return sum, 0, err
				}
			}
			if end {
				break
			}
			stretch, err := move.Scan(ctx, d, offset)
			if err != nil {
				return sum, 0, err
			}
			t.Add(offset, stretch)
		}
		done += d.Size()
		digests = append(digests, t.Digest(d.Size()))
		if !arriving {
			w.mu.Lock()
			w.sums[files[i]] = t
			w.mu.Unlock()
		}
	}
	return move.SumAll(files, digests), total, nil
}

// admitArrived looks at the image itself, as Create does.
func (s *Mover) admitArrived(g *guest.Guest) error {
	rec := g.Snapshot()
	d, err := move.OpenDisk(g.Dir(), rec.Image, false, 0)
	if err != nil {
		return fault.New(fault.Storage, "open image of guest %s: %w", rec.Name, err)
	}
	defer d.Close()
	if err := g.AdmitCopy(); err != nil {
		return err
	}
	if err := d.Chmod(0o400); err != nil {
		return fault.New(fault.Storage, "close image of guest %s: %w", rec.Name, err)
	}
	return nil
}
