package oci

import (
	"errors"
	"strings"
	"testing"
)

func FuzzManifest(f *testing.F) {
	d := `{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:` + strings.Repeat("0", 64) + `","size":1,"platform":{"os":"linux","architecture":"s390x"}}`
	f.Add([]byte(`{"schemaVersion":2,"config":` + d + `,"layers":[` + d + `]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[` + d + `,{}]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":null,"config":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b)
		if err != nil {
			if !errors.Is(err, ErrImage) {
				t.Error(err)
			}
			return
		}
		if len(m.Layers) > maxLayers || len(m.Manifests) > maxIndex {
			t.Error("more than the bounds")
		}
		if m.Config == nil {
			if d, err := m.choose("s390x"); err == nil {
				if _, _, err := parseDigest(d.Digest); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"architecture":"s390x","os":"linux","config":{"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":["sha256:`+strings.Repeat("0", 64)+`"]}}`), 1)
	f.Add([]byte(`{"architecture":"s390x"}`), 0)
	f.Fuzz(func(t *testing.T, b []byte, layers int) {
		c, err := parseConfig(b, layers, "s390x")
		if err == nil && (len(c.RootFS.DiffIDs) != layers || layers < 1) {
			t.Errorf("%d layers, %d digests", layers, len(c.RootFS.DiffIDs))
		} else if err != nil && !errors.Is(err, ErrImage) && !errors.Is(err, ErrPlatform) {
			t.Error(err)
		}
	})
}
