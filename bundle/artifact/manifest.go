// Package artifact is the bundle in a registry, an OCI layout folder or an
// archive of one, in one of two forms.
//
// The artifact is an OCI image manifest whose config is bundle.json and whose
// layers are the parts, large ones in chunks. Chunks make transfers resumable with
// every registry, run side by side, and leave out what the other side has already.
// The names of files come from bundle.json alone, never from annotations; the
// order and sizes of layers say where their bytes belong.
//
// The image is an ordinary container image, for containerd: one layer, in whose
// root are the files of the bundle folder.
package artifact

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/secexec/secexec/bundle"
)

// Media types.
const (
	Type         = "application/vnd.secexec.bundle.v1"             // artifactType of the manifest
	ManifestType = "application/vnd.secexec.bundle.config.v1+json" // config: bundle.json
	ImageType    = "application/vnd.secexec.bundle.image.v1"       // layer: bytes of the SE boot image
	DiskType     = "application/vnd.secexec.bundle.disk.v1"        // layer: bytes of a disk
)

// Annotations of the manifest, and of its descriptor in an index.
const (
	HostKeyHashes = "vnd.secexec.bundle.host-key-hashes" // comma-separated, as in bundle.json
	ImageID       = "vnd.secexec.bundle.image-id"
)

// Limits, checked before anything is fetched.
const (
	MaxManifest = 4 << 20 // bytes, what registries commonly take
	MaxLayers   = 8 << 10
	MaxIndex    = 1 << 10 // manifests in an index
	minChunk    = 16 << 20
	maxChunks   = 256 // of a part; larger parts have larger chunks
)

// ErrInvalid is wrapped by every error about what a registry or layout holds.
var ErrInvalid = errors.New("invalid bundle artifact")

// chunk is a layer: bytes of a part from an offset on.
type chunk struct {
	part   bundle.Part
	offset int64
	desc   ocispec.Descriptor
}

// chunkSize returns the size of a part's chunks.
func chunkSize(size, least int64) int64 {
	const unit = 1 << 20
	if size <= least*maxChunks {
		return least
	}
	return (size/maxChunks + unit) / unit * unit
}

func parts(m *bundle.Manifest) (list []bundle.Part, types []string) {
	list, types = m.Parts(), []string{ImageType}
	for range list[1:] {
		types = append(types, DiskType)
	}
	return list, types
}

// describe reads all parts, checks them against the manifest and returns their
// chunks.
func describe(ctx context.Context, b *bundle.Bundle, least int64) ([]chunk, error) {
	var out []chunk
	list, types := parts(&b.Manifest)
	for i, part := range list {
		size := chunkSize(part.Size, least)
		c := &chunker{part: part, mediaType: types[i], size: size, left: size, digest: digest.SHA256.Digester()}
		if err := b.CopyPart(ctx, part, c); err != nil {
			return nil, err
		}
		c.end()
		out = append(out, c.chunks...)
	}
	if len(out) > MaxLayers {
		return nil, fmt.Errorf("push bundle: %d chunks, at most %d", len(out), MaxLayers)
	}
	return out, nil
}

// chunker is a writer that digests each chunk of a part.
type chunker struct {
	part      bundle.Part
	mediaType string
	size      int64
	left      int64 // of the current chunk
	offset    int64 // of the current chunk
	digest    digest.Digester
	chunks    []chunk
}

func (c *chunker) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if c.left == 0 {
			c.end()
		}
		k := int(min(int64(len(b)), c.left))
		_, _ = c.digest.Hash().Write(b[:k])
		b, c.left = b[k:], c.left-int64(k)
	}
	return n, nil
}

func (c *chunker) end() {
	n := c.size - c.left
	desc := ocispec.Descriptor{MediaType: c.mediaType, Digest: c.digest.Digest(), Size: n}
	// For people with other tools: files in the order of their bytes.
	title := c.part.File
	if n != c.part.Size {
		title = fmt.Sprintf("%s.%04d", title, len(c.chunks))
	}
	desc.Annotations = map[string]string{ocispec.AnnotationTitle: title}
	c.chunks = append(c.chunks, chunk{c.part, c.offset, desc})
	c.offset, c.left = c.offset+n, c.size
	c.digest = digest.SHA256.Digester()
}

// marshal returns config and manifest of a bundle in these chunks, each with
// its descriptor.
func marshal(m *bundle.Manifest, chunks []chunk) (config, manifest []byte, configDesc, desc ocispec.Descriptor, err error) {
	if config, err = m.Marshal(); err != nil {
		return nil, nil, configDesc, desc, err
	}
	configDesc = ocispec.Descriptor{MediaType: ManifestType, Digest: digest.FromBytes(config), Size: int64(len(config))}
	om := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: Type,
		Config: configDesc, Annotations: annotations(m),
	}
	for _, c := range chunks {
		om.Layers = append(om.Layers, c.desc)
	}
	if manifest, err = json.Marshal(om); err != nil {
		return nil, nil, configDesc, desc, fmt.Errorf("write OCI manifest: %w", err)
	}
	desc = ocispec.Descriptor{
		MediaType: om.MediaType, ArtifactType: Type, Digest: digest.FromBytes(manifest), Size: int64(len(manifest)), Annotations: om.Annotations,
	}
	return config, manifest, configDesc, desc, nil
}

// parseManifest parses an OCI manifest as far as it says where bundle.json is.
func parseManifest(text []byte) (*ocispec.Manifest, error) {
	m := new(ocispec.Manifest)
	if err := decode(text, m); err != nil {
		return nil, err
	}
	switch {
	case m.SchemaVersion != 2 || m.MediaType != ocispec.MediaTypeImageManifest && m.MediaType != dockerManifest:
		return nil, invalid("it is no OCI image manifest")
	case isImage(m):
		if err := checkImage(m); err != nil {
			return nil, err
		}
	case m.ArtifactType != Type:
		return nil, invalid("it is %.100q, no bundle (%s)", m.ArtifactType, Type)
	case m.Config.MediaType != ManifestType || m.Config.Size > bundle.MaxManifestSize:
		return nil, invalid("its config is no bundle manifest")
	case len(m.Layers) > MaxLayers:
		return nil, invalid("%d layers, at most %d", len(m.Layers), MaxLayers)
	case m.Subject != nil:
		return nil, invalid("it has a subject")
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := checkDescriptor(d); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// layOut gives each layer its place in the parts that bundle.json names.
func layOut(m *bundle.Manifest, layers []ocispec.Descriptor) ([]chunk, error) {
	var out []chunk
	list, types := parts(m)
	for i, part := range list {
		for offset := int64(0); offset < part.Size; {
			if len(layers) == 0 {
				return nil, invalid("its layers end before %s does", part.File)
			}
			d := layers[0]
			if d.MediaType != types[i] || d.Size > part.Size-offset {
				return nil, invalid("layer %s does not fit %s", d.Digest, part.File)
			}
			out = append(out, chunk{part, offset, d})
			offset, layers = offset+d.Size, layers[1:]
		}
	}
	if len(layers) > 0 {
		return nil, invalid("%d layers after the last part", len(layers))
	}
	return out, nil
}

// choose finds the bundle of an index that a host of these key hashes can
// start; no hashes fit an index of one bundle only.
func choose(text []byte, hashes []string) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	index := new(ocispec.Index)
	if err := decode(text, index); err != nil {
		return none, err
	}
	if index.SchemaVersion != 2 || index.MediaType != "" && index.MediaType != ocispec.MediaTypeImageIndex || len(index.Manifests) > MaxIndex {
		return none, invalid("it is no OCI image index of at most %d manifests", MaxIndex)
	}
	var bundles, fitting []ocispec.Descriptor
	for _, d := range index.Manifests {
		image := d.ArtifactType == "" && (d.Platform == nil || d.Platform.OS == imageOS && d.Platform.Architecture == imageArch)
		if d.MediaType != ocispec.MediaTypeImageManifest || d.ArtifactType != Type && !image {
			continue
		}
		if err := checkDescriptor(d); err != nil {
			return none, err
		}
		bundles = append(bundles, d)
		if slices.ContainsFunc(strings.Split(d.Annotations[HostKeyHashes], ","), func(h string) bool { return slices.Contains(hashes, h) }) {
			fitting = append(fitting, d)
		}
	}
	switch {
	case len(bundles) == 0:
		return none, invalid("its index names no bundle")
	case len(hashes) == 0 && len(bundles) == 1:
		return bundles[0], nil
	case len(hashes) == 0:
		return none, fmt.Errorf("%w: it holds %d bundles: say by --host-key-document for which host", ErrChoice, len(bundles))
	case len(fitting) == 0:
		return none, fmt.Errorf("%w: none of its %d bundles has a key slot for this host", ErrChoice, len(bundles))
	}
	return fitting[0], nil
}

// ErrChoice says that a reference holds no bundle, or several, for a host.
var ErrChoice = errors.New("no bundle chosen")

// checkHosts refuses a bundle without a key slot for one of these hosts.
func checkHosts(m *bundle.Manifest, hashes []string) error {
	if len(hashes) == 0 {
		return nil
	}
	for _, s := range m.KeySlots {
		if slices.Contains(hashes, s.HostKeyHash) {
			return nil
		}
	}
	return fmt.Errorf("%w: bundle %s has no key slot for this host", ErrChoice, m.Name)
}

func checkDescriptor(d ocispec.Descriptor) error {
	hash, ok := strings.CutPrefix(string(d.Digest), "sha256:")
	b, err := hex.DecodeString(hash)
	if !ok || err != nil || len(b) != 32 || hash != strings.ToLower(hash) {
		return invalid("digest %.100q is not SHA-256", d.Digest)
	}
	if d.Size <= 0 {
		return invalid("%s has size %d", d.Digest, d.Size)
	}
	return nil
}

// decode decodes one JSON value. OCI asks readers to accept unknown fields.
func decode(text []byte, v any) error {
	if len(text) > MaxManifest {
		return invalid("%d bytes, at most %d", len(text), MaxManifest)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(v); err != nil {
		return invalid("%v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return invalid("text after the manifest")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
