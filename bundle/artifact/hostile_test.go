package artifact

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/secexec/secexec/bundle"
)

// What a registry can do to who pulls: nothing but refuse. No folder appears,
// nothing outside is written, nothing takes long or grows.
func TestHostileRegistries(t *testing.T) {
	t.Parallel()
	// edit changes the OCI manifest and stores it again.
	edit := func(change func(m *ocispec.Manifest)) func(*testing.T, *fakeRegistry) {
		return func(t *testing.T, g *fakeRegistry) {
			var m ocispec.Manifest
			if err := json.Unmarshal(g.manifests["v1"], &m); err != nil {
				t.Fatal(err)
			}
			change(&m)
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			g.put("v1", ocispec.MediaTypeImageManifest, text)
		}
	}
	// config puts another bundle.json.
	config := func(change func(text string) string) func(*testing.T, *fakeRegistry) {
		return func(t *testing.T, g *fakeRegistry) {
			edit(func(m *ocispec.Manifest) {
				text := []byte(change(string(g.blobs[string(m.Config.Digest)])))
				g.blobs[digestOf(text)] = text
				m.Config.Digest, m.Config.Size = digest.Digest(digestOf(text)), int64(len(text))
			})(t, g)
		}
	}
	// answer answers fetches of layers.
	answer := func(f func(w http.ResponseWriter, r *http.Request)) func(*testing.T, *fakeRegistry) {
		return func(t *testing.T, g *fakeRegistry) {
			var m ocispec.Manifest
			if err := json.Unmarshal(g.manifests["v1"], &m); err != nil {
				t.Fatal(err)
			}
			g.setFault(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") || strings.HasSuffix(r.URL.Path, string(m.Config.Digest)) {
					return false
				}
				f(w, r)
				return true
			})
		}
	}
	cases := []struct {
		name  string
		spoil func(*testing.T, *fakeRegistry)
		want  error // nil: any
	}{
		{"other bytes of the right size", answer(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(testChunk))
			_, _ = w.Write(make([]byte, testChunk))
		}), nil},
		{"endless body", answer(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}), nil},
		{"body that ends early", answer(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("x")) }), nil},
		{"silence in the middle", answer(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("x"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}), nil},
		{"redirect to itself", answer(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }), nil},
		{"huge manifest", func(t *testing.T, g *fakeRegistry) {
			g.put("v1", ocispec.MediaTypeImageManifest, []byte("{"+strings.Repeat(" ", MaxManifest)+"}"))
		}, nil},
		{"no JSON", func(t *testing.T, g *fakeRegistry) { g.put("v1", ocispec.MediaTypeImageManifest, []byte("\x7fELF")) }, ErrInvalid},
		{"two values", func(t *testing.T, g *fakeRegistry) {
			g.put("v1", ocispec.MediaTypeImageManifest, append(slices.Clone(g.manifests["v1"]), "{}"...))
		}, ErrInvalid},
		{"container image", edit(func(m *ocispec.Manifest) { m.ArtifactType = "" }), ErrInvalid},
		{"config of another kind", edit(func(m *ocispec.Manifest) { m.Config.MediaType = ocispec.MediaTypeImageConfig }), ErrInvalid},
		{"config of a GiB", edit(func(m *ocispec.Manifest) { m.Config.Size = 1 << 30 }), ErrInvalid},
		{"digest of another kind", edit(func(m *ocispec.Manifest) { m.Layers[0].Digest = "md5:00" }), ErrInvalid},
		{"path for a digest", edit(func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../../etc/passwd" }), ErrInvalid},
		{"layer without bytes", edit(func(m *ocispec.Manifest) { m.Layers[0].Size = 0 }), ErrInvalid},
		{"layer of negative size", edit(func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }), ErrInvalid},
		{"layer too large", edit(func(m *ocispec.Manifest) { m.Layers[0].Size = 1 << 40 }), ErrInvalid},
		{"layer missing", edit(func(m *ocispec.Manifest) { m.Layers = m.Layers[:len(m.Layers)-1] }), ErrInvalid},
		{"layer too many", edit(func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }), ErrInvalid},
		{"layers without end", edit(func(m *ocispec.Manifest) {
			for len(m.Layers) <= MaxLayers {
				m.Layers = append(m.Layers, m.Layers...)
			}
		}), nil},
		{"layers swapped", edit(func(m *ocispec.Manifest) { m.Layers[2], m.Layers[3] = m.Layers[3], m.Layers[2] }), ErrInvalid},
		{"disk's layer in the image", edit(func(m *ocispec.Manifest) { m.Layers[0].MediaType = DiskType }), ErrInvalid},
		{"path for a file", config(func(s string) string { return strings.Replace(s, "root.img", "../root.img", 1) }), bundle.ErrManifest},
		{"absolute path for a file", config(func(s string) string { return strings.Replace(s, "root.img", "/tmp/root.img", 1) }), bundle.ErrManifest},
		{"file twice", config(func(s string) string { return strings.Replace(s, "root.img", "boot.seimg", 1) }), bundle.ErrManifest},
		{"no bundle.json", config(func(string) string { return "x" }), bundle.ErrManifest},
		{"disk of an exabyte", config(func(s string) string { return strings.Replace(s, fmt.Sprint(diskSize), fmt.Sprint(1<<60), 1) }), ErrInvalid},
		{"index in an index", func(t *testing.T, g *fakeRegistry) {
			g.put("v1", ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"`+ocispec.MediaTypeImageIndex+`"}]}`))
		}, ErrInvalid},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newRegistry(t)
			mustPush(t, sample(t, 1, hostA), g.ref("v1"))
			c.spoil(t, g)
			parent := t.TempDir()
			o := quick()
			if c.name == "silence in the middle" {
				o.tuning.stall = 200 * time.Millisecond
			}
			_, err := pullTo(t, g.ref("v1"), filepath.Join(parent, "out"), o)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, wants %v", err, c.want)
			}
			for _, name := range entries(t, parent) {
				if name != ".out.resume" {
					t.Errorf("left %s", name)
					continue
				}
				for _, part := range entries(t, filepath.Join(parent, name)) {
					info, err := os.Lstat(filepath.Join(parent, name, part))
					if err != nil || !slices.Contains([]string{"boot.seimg", "root.img"}, part) || info.Size() > diskSize {
						t.Errorf("left %s: %v %v", part, info, err)
					}
				}
			}
		})
	}
}

// Any text is refused or laid out within its parts.
func FuzzManifest(f *testing.F) {
	_, m, err := fuzzSample(f)
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range fuzzSeeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _ = choose(text, []string{hostA})
		om, err := parseManifest(text)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		chunks, err := layOut(m, om.Layers)
		if err != nil {
			return
		}
		at := make(map[string]int64)
		for _, c := range chunks {
			if c.offset != at[c.part.File] || c.desc.Size <= 0 || c.offset+c.desc.Size > c.part.Size {
				t.Fatalf("chunk %+v is out of place", c)
			}
			at[c.part.File] += c.desc.Size
		}
		if at["boot.seimg"] != m.Image.Size || at["root.img"] != m.Disks[0].Size {
			t.Fatalf("parts are not whole: %v", at)
		}
	})
}

func fuzzSample(t testing.TB) ([]byte, *bundle.Manifest, error) {
	b, err := bundle.Open(sample(t, 1, hostA))
	if err != nil {
		return nil, nil, err
	}
	defer b.Close()
	chunks, err := describe(t.Context(), b, testChunk)
	if err != nil {
		return nil, nil, err
	}
	_, text, _, _, err := marshal(&b.Manifest, chunks)
	return text, &b.Manifest, err
}

func fuzzSeeds(t testing.TB) [][]byte {
	text, _, err := fuzzSample(t)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{text, []byte(`{"schemaVersion":2}`), []byte(`{"schemaVersion":2,"manifests":[{}]}`), nil}
}
