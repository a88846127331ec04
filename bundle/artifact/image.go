package artifact

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/compressed"
)

// Media types by which Docker's older tools write the same.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGz  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Platform of every bundle: SE is a facility of s390x.
const (
	imageOS   = "linux"
	imageArch = "s390x"
)

// maxImageConfig bounds the config of a container image, which says little.
const maxImageConfig = 1 << 20

// marshalImage returns config and manifest of a bundle as a container image of
// one layer with this digest, each with its descriptor.
func marshalImage(m *bundle.Manifest, layer ocispec.Descriptor) (config, manifest []byte, configDesc, desc ocispec.Descriptor, err error) {
	image := ocispec.Image{
		Platform: ocispec.Platform{OS: imageOS, Architecture: imageArch},
		// What containerd and podman would run, were they not told of a runtime that
		// knows better; it also says so. The user is nobody, as nothing of the guest
		// is anybody on its node.
		Config:  ocispec.ImageConfig{Entrypoint: []string{bundle.ImageProgram}, User: bundle.ImageUser},
		RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}},
		History: []ocispec.History{{CreatedBy: "secexec bundle push"}},
	}
	if config, err = json.Marshal(image); err != nil {
		return nil, nil, configDesc, desc, fmt.Errorf("write OCI image config: %w", err)
	}
	configDesc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	om := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configDesc, Layers: []ocispec.Descriptor{layer}, Annotations: annotations(m),
	}
	if manifest, err = json.Marshal(om); err != nil {
		return nil, nil, configDesc, desc, fmt.Errorf("write OCI manifest: %w", err)
	}
	// Without its platform, which the config says: tools on other machines, with
	// nodes that emulate, would pass over it.
	desc = ocispec.Descriptor{MediaType: om.MediaType, Digest: digest.FromBytes(manifest), Size: int64(len(manifest)), Annotations: om.Annotations}
	return config, manifest, configDesc, desc, nil
}

// annotations are those of the manifest, in either form, and of its descriptor.
func annotations(m *bundle.Manifest) map[string]string {
	var hashes []string
	for _, s := range m.KeySlots {
		hashes = append(hashes, s.HostKeyHash)
	}
	return map[string]string{
		ocispec.AnnotationTitle: m.Name, ImageID: m.Image.ID, HostKeyHashes: strings.Join(hashes, ","),
	}
}

// isImage tells whether a manifest is a container image's rather than an
// artifact's.
func isImage(m *ocispec.Manifest) bool {
	return m.ArtifactType == "" && (m.Config.MediaType == ocispec.MediaTypeImageConfig || m.Config.MediaType == dockerConfig)
}

// checkImage refuses the manifest of a container image that can't be a bundle's.
// The layer may be compressed: tools that copy images do that.
func checkImage(m *ocispec.Manifest) error {
	switch {
	case len(m.Layers) != 1:
		return invalid("it is a container image of %d layers, a bundle's has one", len(m.Layers))
	case m.Config.Size > maxImageConfig:
		return invalid("its config has %d bytes, at most %d", m.Config.Size, maxImageConfig)
	}
	_, err := compression(m.Layers[0])
	return err
}

// compression is how a layer is compressed, by its media type; "" for not.
func compression(layer ocispec.Descriptor) (compressed.Format, error) {
	switch layer.MediaType {
	case ocispec.MediaTypeImageLayer, dockerLayer:
		return "", nil
	case ocispec.MediaTypeImageLayerGzip, dockerLayerGz:
		return compressed.Gzip, nil
	case ocispec.MediaTypeImageLayerZstd:
		return compressed.Zstd, nil
	}
	return "", invalid("layer of media type %.100q", layer.MediaType)
}

// parseImageConfig returns the digest of a container image's one layer before it
// was compressed.
func parseImageConfig(text []byte) (digest.Digest, error) {
	var c ocispec.Image
	if err := decode(text, &c); err != nil {
		return "", err
	}
	switch {
	case c.OS != imageOS || c.Architecture != imageArch:
		return "", invalid("it is a container image for %.40q on %.40q, a bundle's is for %s on %s", c.OS, c.Architecture, imageOS, imageArch)
	case !slices.Equal(c.Config.Entrypoint, []string{bundle.ImageProgram}) || len(c.Config.Cmd) > 0:
		return "", invalid("it is another container image: it runs %.200q", append(c.Config.Entrypoint, c.Config.Cmd...))
	case len(c.RootFS.DiffIDs) != 1:
		return "", invalid("its config has %d layers", len(c.RootFS.DiffIDs))
	}
	return c.RootFS.DiffIDs[0], checkDescriptor(ocispec.Descriptor{Digest: c.RootFS.DiffIDs[0], Size: 1})
}
