package oci

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// manifest is an image's manifest or an index, of OCI or Docker (image-spec,
// manifest.md and image-index.md; distribution, manifest-v2-2.md).
type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *Descriptor  `json:"config"`
	Layers        []Descriptor `json:"layers"`
	Manifests     []Descriptor `json:"manifests"`
}

// config is an image's configuration (image-spec, config.md).
type config struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       Config `json:"config"`
	RootFS       struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// parseManifest parses a manifest or an index: one of both.
func parseManifest(b []byte) (*manifest, error) {
	var m manifest
	if err := unmarshal(b, "manifest", &m); err != nil {
		return nil, err
	}
	switch {
	case m.SchemaVersion != 2:
		return nil, fmt.Errorf("%w: manifest of version %d, wants 2", ErrImage, m.SchemaVersion)
	case (m.Config == nil) == (m.Manifests == nil):
		return nil, fmt.Errorf("%w: it has neither a manifest nor an index, or both in one", ErrImage)
	case len(m.Layers) > maxLayers || len(m.Manifests) > maxIndex:
		return nil, fmt.Errorf("%w: %d layers, %d entries", ErrImage, len(m.Layers), len(m.Manifests))
	}
	all := slices.Concat(m.Layers, m.Manifests)
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	for _, d := range all {
		if _, _, err := parseDigest(d.Digest); err != nil {
			return nil, err
		}
		if d.Size < 0 {
			return nil, fmt.Errorf("%w: %s has %d bytes", ErrImage, d.Digest, d.Size)
		}
	}
	for _, d := range m.Layers {
		if !strings.Contains(d.MediaType, "tar") || strings.Contains(d.MediaType, "encrypted") {
			return nil, fmt.Errorf("%w: a layer is of type %.100q: it is no container image, or an encrypted one", ErrImage, d.MediaType)
		}
	}
	return &m, nil
}

// parseConfig parses a configuration and checks it against its layers.
func parseConfig(b []byte, layers int, arch string) (*config, error) {
	var c config
	if err := unmarshal(b, "configuration", &c); err != nil {
		return nil, err
	}
	switch {
	case c.Architecture != arch || c.OS != "linux" && c.OS != "":
		return nil, fmt.Errorf("%w: it is for %.40s/%.40s, the guest is linux/%s", ErrPlatform, c.OS, c.Architecture, arch)
	case len(c.RootFS.DiffIDs) != layers || layers == 0 || layers > maxLayers:
		return nil, fmt.Errorf("%w: %d layers, %d digests of layers", ErrImage, layers, len(c.RootFS.DiffIDs))
	}
	for _, d := range c.RootFS.DiffIDs {
		if _, _, err := parseDigest(d); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

// choose chooses a platform's entry of an index.
func (m *manifest) choose(arch string) (Descriptor, error) {
	var have []string
	for _, d := range m.Manifests {
		p := d.Platform
		if p == nil {
			continue
		}
		if p.OS == "linux" && p.Architecture == arch {
			return d, nil
		}
		have = append(have, fmt.Sprintf("%.20s/%.20s", p.OS, p.Architecture))
	}
	if len(m.Manifests) == 1 && m.Manifests[0].Platform == nil {
		return m.Manifests[0], nil // its configuration says
	}
	return Descriptor{}, fmt.Errorf("%w: it has none for linux/%s, but for %.400s", ErrPlatform, arch, strings.Join(have, ", "))
}

// resolve follows a descriptor through indexes to an image.
func resolve(ctx context.Context, s source, d Descriptor, arch string) (*Image, error) {
	for range maxNesting + 1 {
		b, err := document(ctx, s, d)
		if err != nil {
			return nil, err
		}
		m, err := parseManifest(b)
		if err != nil {
			return nil, err
		}
		if m.Config == nil {
			if d, err = m.choose(arch); err != nil {
				return nil, err
			}
			continue
		}
		if b, err = document(ctx, s, *m.Config); err != nil {
			return nil, err
		}
		c, err := parseConfig(b, len(m.Layers), arch)
		if err != nil {
			return nil, err
		}
		return &Image{Digest: d.Digest, Config: c.Config, layers: m.Layers, diffIDs: c.RootFS.DiffIDs, from: s}, nil
	}
	return nil, fmt.Errorf("%w: more than %d indexes in one another", ErrImage, maxNesting)
}
