package artifact

import (
	"context"
	"errors"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/secexec/secexec/bundle"
)

// pushImage pushes a bundle as a container image.
func pushImage(ctx context.Context, b *bundle.Bundle, to *Place, o Options, t tuning) (*Summary, error) {
	ball, err := newTarball(&b.Manifest)
	if err != nil {
		return nil, err
	}
	hash, err := ball.digest(ctx, b.CopyPart)
	if err != nil {
		return nil, err
	}
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: hash, Size: ball.size}
	config, manifest, configDesc, desc, err := marshalImage(&b.Manifest, layer)
	if err != nil {
		return nil, err
	}
	if err := to.make(ctx); err != nil {
		return nil, err
	}
	defer to.abort()
	src, err := openTarball(ball, b)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	count := newCounter(ball.size, o.Step)
	if err := pushLayer(ctx, to, layer, src, count, t); err != nil {
		return nil, err
	}
	if err := tag(ctx, to, t, configDesc, config, desc, manifest); err != nil {
		return nil, err
	}
	return &Summary{string(desc.Digest), b.Manifest, count.total, count.moved.Load()}, nil
}

// pushLayer brings one large blob over: to a registry in pieces.
func pushLayer(ctx context.Context, to *Place, desc ocispec.Descriptor, src io.ReaderAt, count *counter, t tuning) error {
	var there bool
	err := again(ctx, t.pause, func() (err error) { there, err = to.target.Exists(ctx, desc); return err })
	if err != nil {
		return err
	}
	if there {
		count.add(desc.Size, false)
		return nil
	}
	if repo, ok := to.target.(*remote.Repository); ok {
		err := newUpload(repo, desc, src, count, t).run(ctx)
		if !errors.Is(err, errWhole) {
			return err
		}
	}
	return again(ctx, t.pause, func() error {
		ctx, alive, end := watched(ctx, t.stall)
		defer end()
		body := &tellingReader{io.NewSectionReader(src, 0, desc.Size), alive}
		err := cause(ctx, to.target.Push(ctx, desc, body))
		if err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
			return err
		}
		count.add(desc.Size, true)
		return nil
	})
}
