package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/errdef"

	"github.com/secexec/secexec/bundle"
)

// Options of a transfer. The zero value is usable.
type Options struct {
	Image    bool       // push: as an ordinary container image rather than an artifact
	Parallel int        // chunks at a time, 0 for 4; a container image has one
	Hosts    []string   // pull only a bundle that one of these host key hashes can start
	Step     func(Step) // told how far it is, from several goroutines; may be nil
	Existing string     // pull: folder of an older bundle whose bytes are used where they are the same
	tuning   *tuning    // for tests
}

// tuning is what tests make small.
type tuning struct {
	chunk int64
	pause time.Duration // after the first failure
	stall time.Duration // without a byte
}

func (o *Options) tuned() tuning {
	if o.tuning != nil {
		return *o.tuning
	}
	return tuning{chunk: minChunk, pause: time.Second, stall: time.Minute}
}

func (o *Options) parallel() int {
	if o.Parallel > 0 {
		return o.Parallel
	}
	return 4
}

// Step tells how many bytes are done of how many; Moved of them crossed the
// network, the others were there.
type Step struct{ Done, Moved, Total int64 }

// Summary is what came of a transfer.
type Summary struct {
	Digest   string // of the OCI manifest
	Manifest bundle.Manifest
	Total    int64 // bytes of all parts
	Moved    int64 // bytes that crossed the network
}

// Push pushes a bundle to a place. Chunks that the place has are left out, so a
// push that was interrupted goes on where it stopped. The tag is set last.
func Push(ctx context.Context, b *bundle.Bundle, to *Place, o Options) (*Summary, error) {
	push := pushChunks
	if o.Image {
		push = pushImage
	}
	sum, err := push(ctx, b, to, o, o.tuned())
	if err != nil {
		return nil, fmt.Errorf("push to %s: %w", to.name, err)
	}
	return sum, nil
}

func pushChunks(ctx context.Context, b *bundle.Bundle, to *Place, o Options, t tuning) (*Summary, error) {
	chunks, err := describe(ctx, b, t.chunk)
	if err != nil {
		return nil, err
	}
	config, manifest, configDesc, desc, err := marshal(&b.Manifest, chunks)
	if err != nil {
		return nil, err
	}
	if err := to.make(ctx); err != nil {
		return nil, err
	}
	defer to.abort()
	count := newCounter(sizeOf(chunks), o.Step)
	group, ctx2 := errgroup.WithContext(ctx)
	group.SetLimit(o.parallel())
	if to.archive != "" {
		group.SetLimit(1) // its bytes are in an order
	}
	for _, c := range unique(chunks) {
		group.Go(func() error {
			return again(ctx2, t.pause, func() error { return pushChunk(ctx2, b, c, to, count, t.stall) })
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := tag(ctx, to, t, configDesc, config, desc, manifest); err != nil {
		return nil, err
	}
	return &Summary{string(desc.Digest), b.Manifest, count.total, count.moved.Load()}, nil
}

// tag pushes what makes layers a bundle, and names it: the last step.
func tag(ctx context.Context, to *Place, t tuning, configDesc descriptor, config []byte, desc descriptor, manifest []byte) error {
	err := again(ctx, t.pause, func() error {
		if err := to.target.Push(ctx, configDesc, bytes.NewReader(config)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
			return err
		}
		if err := to.target.Push(ctx, desc, bytes.NewReader(manifest)); err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
			return err
		}
		return to.target.Tag(ctx, desc, to.ref)
	})
	if err != nil {
		return err
	}
	return to.commit()
}

func pushChunk(ctx context.Context, b *bundle.Bundle, c chunk, to *Place, count *counter, stall time.Duration) error {
	there, err := to.target.Exists(ctx, c.desc)
	if err != nil {
		return err
	}
	if !there {
		f, err := b.OpenPart(c.part)
		if err != nil {
			return fmt.Errorf("%w: %w", errLocal, err)
		}
		defer f.Close()
		ctx, alive, end := watched(ctx, stall)
		defer end()
		body := &tellingReader{io.NewSectionReader(f, c.offset, c.desc.Size), alive}
		err = cause(ctx, to.target.Push(ctx, c.desc, body))
		if err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
			return err
		}
	}
	count.add(c.desc.Size, !there)
	return nil
}

// unique drops chunks whose bytes an earlier one has.
func unique(chunks []chunk) []chunk {
	var out []chunk
	seen := make(map[string]bool)
	for _, c := range chunks {
		if !seen[string(c.desc.Digest)] {
			out = append(out, c)
		}
		seen[string(c.desc.Digest)] = true
	}
	return out
}

// watched returns a context that ends when alive is not called for a while: a
// peer that goes silent in the middle is as good as gone.
func watched(parent context.Context, stall time.Duration) (ctx context.Context, alive func(), end func()) {
	ctx, cancel := context.WithCancelCause(parent)
	silent := time.AfterFunc(stall, func() { cancel(fmt.Errorf("no byte moved for %v", stall)) })
	return ctx, func() { silent.Reset(stall) }, func() { silent.Stop(); cancel(nil) }
}

// tellingReader tells that bytes move.
type tellingReader struct {
	r     io.Reader
	alive func()
}

func (t *tellingReader) Read(b []byte) (int, error) {
	t.alive()
	return t.r.Read(b)
}
