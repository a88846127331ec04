package artifact

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/compressed"
)

// found is a bundle in a place, and where its bytes are.
type found struct {
	desc     ocispec.Descriptor // of the OCI manifest
	manifest *bundle.Manifest
	chunks   []chunk // of an artifact

	// Of a container image.
	tarball *tarball
	layer   ocispec.Descriptor
	diffID  digest.Digest // of the layer's archive
}

// resolve fetches what says which layers there are.
func resolve(ctx context.Context, from *Place, hosts []string) (*found, error) {
	desc, err := from.target.Resolve(ctx, from.ref)
	if err != nil {
		return nil, err
	}
	text, err := fetchSmall(ctx, from, desc, MaxManifest)
	if err != nil {
		return nil, err
	}
	if desc.MediaType == ocispec.MediaTypeImageIndex {
		if desc, err = choose(text, hosts); err != nil {
			return nil, err
		}
		if text, err = fetchSmall(ctx, from, desc, MaxManifest); err != nil {
			return nil, err
		}
	}
	om, err := parseManifest(text)
	if err != nil {
		return nil, err
	}
	f := &found{desc: desc}
	if isImage(om) {
		err = f.resolveImage(ctx, from, om)
	} else {
		err = f.resolveArtifact(ctx, from, om)
	}
	if err != nil {
		return nil, err
	}
	return f, checkHosts(f.manifest, hosts)
}

func (f *found) resolveArtifact(ctx context.Context, from *Place, om *ocispec.Manifest) error {
	config, err := fetchSmall(ctx, from, om.Config, bundle.MaxManifestSize)
	if err != nil {
		return err
	}
	if f.manifest, err = bundle.ParseManifest(config); err != nil {
		return err
	}
	f.chunks, err = layOut(f.manifest, om.Layers)
	return err
}

func (f *found) resolveImage(ctx context.Context, from *Place, om *ocispec.Manifest) error {
	config, err := fetchSmall(ctx, from, om.Config, maxImageConfig)
	if err != nil {
		return err
	}
	if f.diffID, err = parseImageConfig(config); err != nil {
		return err
	}
	f.layer = om.Layers[0]
	body, err := openLayer(ctx, from, f.layer)
	if err != nil {
		return err
	}
	defer body.Close()
	if f.manifest, err = readHead(body); err != nil {
		return err
	}
	if f.tarball, err = newTarball(f.manifest); err != nil {
		return err
	}
	format, err := compression(f.layer)
	if err == nil && format == compressed.None && (f.layer.Size != f.tarball.size || f.layer.Digest != f.diffID) {
		err = invalid("its layer is not the archive that bundle.json describes")
	}
	return err
}

// layer is a layer's archive, from its beginning.
type layer struct {
	io.Reader
	seek io.Seeker // nil: can't be read from elsewhere
	end  []io.Closer
}

// Close ends the transfer.
func (l *layer) Close() error {
	for _, c := range l.end {
		_ = c.Close() // what came is checked by its digest
	}
	return nil
}

func openLayer(ctx context.Context, from *Place, desc ocispec.Descriptor) (*layer, error) {
	format, err := compression(desc)
	if err != nil {
		return nil, err
	}
	body, err := from.target.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	if format == compressed.None {
		seek, _ := body.(io.Seeker)
		return &layer{body, seek, []io.Closer{body}}, nil
	}
	plain, err := compressed.NewReader(io.LimitReader(body, desc.Size), format)
	if err != nil {
		body.Close()
		return nil, fmt.Errorf("%w: open layer: %w", ErrInvalid, err)
	}
	return &layer{plain, nil, []io.Closer{plain, body}}, nil
}

func fetchSmall(ctx context.Context, from *Place, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, err
	}
	if desc.Size > limit {
		return nil, invalid("%s has %d bytes, at most %d", desc.Digest, desc.Size, limit)
	}
	return content.FetchAll(ctx, from.target, desc)
}
