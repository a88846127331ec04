package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/outfile"
)

// pullImage brings all parts of a container image into the work folder: those
// that are the same in the older bundle are linked, the others come in the
// layer's order. What came before an interruption does not come again where the
// other side lets a layer be read from its middle.
func pullImage(ctx context.Context, from *Place, work *outfile.Dir, found *found, o Options, count *counter) error {
	in := &intake{found: found, count: count, t: o.tuned()}
	defer in.close()
	fresh := true
	for _, part := range found.tarball.parts {
		p, err := in.prepare(ctx, work, part, o.Existing)
		if err != nil {
			return err
		}
		fresh = fresh && (p.linked || p.have == 0)
	}
	for {
		err := again(ctx, in.t.pause, func() error { return in.fetch(ctx, from) })
		if err == nil {
			err = in.verify(ctx)
		}
		if fresh || !errors.Is(err, ErrInvalid) {
			return err
		}
		// An earlier pull left bytes that never were whole: all of it once more.
		fresh = true
		for _, p := range in.parts {
			if !p.linked {
				in.count.done.Add(-p.have)
				p.have = 0
			}
		}
	}
}

// intake is a layer on its way into files.
type intake struct {
	*found
	parts []*intakePart
	count *counter
	t     tuning
}

type intakePart struct {
	bundle.Part
	file   *os.File
	have   int64 // bytes at its beginning that are there
	linked bool  // whole, and not to be written to
}

func (in *intake) close() {
	for _, p := range in.parts {
		p.file.Close()
	}
}

// prepare opens a part's file in the work folder.
func (in *intake) prepare(ctx context.Context, work *outfile.Dir, part bundle.Part, existing string) (*intakePart, error) {
	p := &intakePart{Part: part}
	old, linked, err := takeOld(ctx, work, part, existing)
	if err != nil {
		return nil, err
	}
	if old != nil {
		old.Close()
	}
	if linked {
		p.linked, p.have = true, part.Size
		p.file, err = os.Open(work.Join(part.File))
	} else {
		p.file, err = openPartial(work.Join(part.File))
	}
	if err != nil {
		return nil, err
	}
	in.parts = append(in.parts, p)
	if !linked {
		info, err := p.file.Stat()
		if err != nil {
			return nil, err
		}
		p.have = min(info.Size(), part.Size)
	}
	in.count.add(p.have, false)
	return p, nil
}

// fetch reads the layer once, for the bytes that are missing.
func (in *intake) fetch(ctx context.Context, from *Place) error {
	last := -1
	for i, p := range in.parts {
		if p.have < p.Size {
			last = i
		}
	}
	if last < 0 {
		return nil
	}
	ctx, alive, end := watched(ctx, in.t.stall)
	defer end()
	body, err := openLayer(ctx, from, in.layer)
	if err != nil {
		return cause(ctx, err)
	}
	defer body.Close()
	at, buf := int64(0), make([]byte, 256<<10)
	for i, p := range in.parts[:last+1] {
		to := in.tarball.offset(i) + p.have
		if p.have == p.Size {
			continue
		}
		if body.seek != nil {
			_, err = body.seek.Seek(to, io.SeekStart)
		} else {
			_, err = io.CopyBuffer(io.Discard, &tellingReader{io.LimitReader(body, to-at), alive}, buf)
		}
		if err != nil {
			return cause(ctx, err)
		}
		at = to
		for p.have < p.Size {
			n, err := body.Read(buf[:min(int64(len(buf)), p.Size-p.have)])
			alive()
			if _, err := p.file.WriteAt(buf[:n], p.have); err != nil {
				return fmt.Errorf("%w: write %s: %w", errLocal, p.File, err)
			}
			p.have, at = p.have+int64(n), at+int64(n)
			in.count.add(int64(n), true)
			if errors.Is(err, io.EOF) && p.have < p.Size {
				err = io.ErrUnexpectedEOF
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return cause(ctx, err)
			}
		}
	}
	return nil
}

// verify has the last word: the parts are those of bundle.json, and the archive
// that they make is the one that the image's config names.
func (in *intake) verify(ctx context.Context) error {
	got, err := in.tarball.digest(ctx, func(ctx context.Context, part bundle.Part, w io.Writer) error {
		for _, p := range in.parts {
			if p.File != part.File {
				continue
			}
			if !p.linked {
				if err := errors.Join(p.file.Truncate(p.Size), p.file.Sync()); err != nil {
					return fmt.Errorf("write %s: %w", p.File, err)
				}
			}
			have, err := bundle.Describe(ctx, p.File, io.TeeReader(io.NewSectionReader(p.file, 0, p.Size), w))
			if err != nil {
				return err
			}
			if have != part {
				return invalid("the layer's %s is not the file that bundle.json names", p.File)
			}
		}
		return nil
	})
	if err == nil && got != in.diffID {
		err = invalid("its layer is not the archive that bundle.json describes")
	}
	return err
}

// ReadManifest reads the bundle.json of a bundle in a place, and nothing else.
func ReadManifest(ctx context.Context, from *Place, o Options) (*bundle.Manifest, error) {
	t := o.tuned()
	var f *found
	err := again(ctx, t.pause, func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, 2*t.stall)
		defer cancel()
		f, err = resolve(ctx, from, o.Hosts)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", from.name, err)
	}
	return f.manifest, nil
}
