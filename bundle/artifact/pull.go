package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/outfile"
)

// Pull pulls a bundle into a folder, which must not exist unless it is
// o.Existing, which is then replaced. The folder appears complete, with every
// digest checked, or not at all. After a failure the bytes that came stay in a
// hidden folder beside it, and the next Pull fetches the rest.
func Pull(ctx context.Context, from *Place, dir string, o Options) (*Summary, error) {
	work, err := outfile.ResumeDir(dir, 0o755, o.Existing != "" && filepath.Clean(o.Existing) == filepath.Clean(dir))
	if err != nil {
		return nil, err
	}
	defer work.Keep()
	sum, err := pull(ctx, from, work, o)
	if errors.Is(err, ErrInvalid) || errors.Is(err, ErrChoice) || errors.Is(err, bundle.ErrManifest) {
		work.Abort() // nothing of it is worth keeping
	} else if list, e := os.ReadDir(work.Path); err != nil && e == nil && len(list) == 0 {
		work.Abort()
	}
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", from.name, err)
	}
	return sum, work.Commit()
}

func pull(ctx context.Context, from *Place, work *outfile.Dir, o Options) (*Summary, error) {
	t := o.tuned()
	var found *found
	err := again(ctx, t.pause, func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, 2*t.stall)
		defer cancel()
		found, err = resolve(ctx, from, o.Hosts)
		return err
	})
	if err != nil {
		return nil, err
	}
	m := found.manifest
	if err := clearOthers(work, m); err != nil {
		return nil, err
	}
	var count *counter
	if found.tarball != nil {
		count = newCounter(found.tarball.size, o.Step)
		err = pullImage(ctx, from, work, found, o, count)
	} else {
		count = newCounter(sizeOf(found.chunks), o.Step)
		err = pullChunks(ctx, from, work, found, o, count)
	}
	if err != nil {
		return nil, err
	}
	text, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	if err := os.Remove(work.Join(bundle.ManifestFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("write manifest: %w", err)
	}
	if err := work.WriteFile(bundle.ManifestFile, text, 0o644); err != nil {
		return nil, err
	}
	return &Summary{string(found.desc.Digest), *m, count.total, count.moved.Load()}, nil
}

// pullChunks brings all parts of an artifact into the work folder.
func pullChunks(ctx context.Context, from *Place, work *outfile.Dir, found *found, o Options, count *counter) error {
	for _, part := range found.manifest.Parts() {
		var own []chunk
		for _, c := range found.chunks {
			if c.part.File == part.File {
				own = append(own, c)
			}
		}
		if err := pullPart(ctx, from, work, part, own, o, count); err != nil {
			return err
		}
	}
	return nil
}

// pullPart brings a part into the work folder: linked from the older bundle
// when it is the same, else chunk by chunk.
func pullPart(ctx context.Context, from *Place, work *outfile.Dir, part bundle.Part, chunks []chunk, o Options, count *counter) error {
	t := o.tuned()
	old, linked, err := takeOld(ctx, work, part, o.Existing)
	if err != nil || linked {
		for _, c := range chunks {
			count.add(c.desc.Size, false)
		}
		return err
	}
	if old != nil {
		defer old.Close()
	}
	f, err := openPartial(work.Join(part.File))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(part.Size); err != nil {
		return fmt.Errorf("write %s: %w", part.File, err)
	}
	group, ctx2 := errgroup.WithContext(ctx)
	group.SetLimit(o.parallel())
	for _, c := range chunks {
		group.Go(func() error {
			if have(f, c) || old != nil && copyOld(f, old, c) {
				count.add(c.desc.Size, false)
				return ctx2.Err()
			}
			err := again(ctx2, t.pause, func() error { return fetchChunk(ctx2, from, f, c, t.stall) })
			if err == nil {
				count.add(c.desc.Size, true)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", part.File, err)
	}
	// Each chunk is what the manifest names; bundle.json has the last word.
	got, err := bundle.Describe(ctx, part.File, io.NewSectionReader(f, 0, part.Size))
	if err != nil {
		return err
	}
	if got.SHA256 != part.SHA256 {
		return invalid("the layers of %s do not make the file that bundle.json names", part.File)
	}
	return nil
}

// takeOld links a part of the older bundle that is the same, or opens its file
// of the same name for its chunks.
func takeOld(ctx context.Context, work *outfile.Dir, part bundle.Part, existing string) (*os.File, bool, error) {
	if existing == "" {
		return nil, false, nil
	}
	b, err := bundle.Open(existing)
	if err != nil {
		return nil, false, nil // nothing to be had from it
	}
	defer b.Close()
	for _, p := range b.Manifest.Parts() {
		if p.File != part.File {
			continue
		}
		if p == part && b.CopyPart(ctx, p, io.Discard) == nil {
			if err := os.Remove(work.Join(part.File)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, false, fmt.Errorf("write %s: %w", part.File, err)
			}
			return nil, true, work.Link(part.File, filepath.Join(existing, part.File))
		}
		f, _ := b.OpenPart(p)
		return f, false, ctx.Err()
	}
	return nil, false, nil
}

func openPartial(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() && info.Sys().(*syscall.Stat_t).Nlink == 1 {
		return f, nil
	}
	f.Close()
	if err == nil { // a link to an older bundle's file: not to be written to
		if err = os.Remove(path); err == nil {
			return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		}
	}
	return nil, err
}

// clearOthers removes what an interrupted pull of another bundle left.
func clearOthers(work *outfile.Dir, m *bundle.Manifest) error {
	wanted := make(map[string]bool)
	for _, p := range m.Parts() {
		wanted[p.File] = true
	}
	entries, err := os.ReadDir(work.Path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !wanted[e.Name()] {
			if err := os.RemoveAll(work.Join(e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// have tells whether a file holds a chunk already.
func have(f *os.File, c chunk) bool {
	h := sha256.New()
	n, err := io.CopyBuffer(h, io.NewSectionReader(f, c.offset, c.desc.Size), make([]byte, 1<<20))
	return err == nil && n == c.desc.Size && "sha256:"+hex.EncodeToString(h.Sum(nil)) == string(c.desc.Digest)
}

// copyOld copies a chunk from an older file that has the same one there.
func copyOld(f, old *os.File, c chunk) bool {
	if !have(old, c) {
		return false
	}
	_, err := io.Copy(io.NewOffsetWriter(f, c.offset), io.NewSectionReader(old, c.offset, c.desc.Size))
	return err == nil && have(f, c)
}

// fetchChunk fetches a chunk to its place. Its digest is checked; what was
// written before an error is overwritten by the next try.
func fetchChunk(ctx context.Context, from *Place, f *os.File, c chunk, stall time.Duration) error {
	ctx, alive, end := watched(ctx, stall)
	defer end()
	body, err := from.target.Fetch(ctx, c.desc)
	if err != nil {
		return cause(ctx, err)
	}
	defer body.Close()
	verified := content.NewVerifyReader(body, c.desc)
	buf := make([]byte, 256<<10)
	out := io.NewOffsetWriter(f, c.offset)
	for {
		n, err := verified.Read(buf)
		alive()
		if _, err := out.Write(buf[:n]); err != nil {
			return fmt.Errorf("%w: write %s: %w", errLocal, c.part.File, err)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return cause(ctx, err)
		}
	}
	return cause(ctx, verified.Verify())
}

// cause says why a context ended rather than that it did.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// counter counts bytes for the caller's Step.
type counter struct {
	total       int64
	done, moved atomic.Int64
	step        func(Step)
}

func newCounter(total int64, step func(Step)) *counter { return &counter{total: total, step: step} }

func sizeOf(chunks []chunk) (size int64) {
	for _, c := range chunks {
		size += c.desc.Size
	}
	return size
}

func (c *counter) add(n int64, moved bool) {
	c.done.Add(n)
	if moved {
		c.moved.Add(n)
	}
	if c.step != nil {
		c.step(Step{c.done.Load(), c.moved.Load(), c.total})
	}
}
