// Package ocitest makes container images in all their forms, and a registry,
// for tests.
package ocitest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/rootdisk/oci"
)

// Image is an image to make. Layers are tars, plain or compressed.
type Image struct {
	Architecture string
	Config       oci.Config
	Layers       [][]byte
}

type blobs map[string][]byte // by digest

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func (b blobs) add(t testing.TB, mediaType string, v any) map[string]any {
	t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	d := digest(data)
	b[d] = data
	return map[string]any{"mediaType": mediaType, "digest": d, "size": len(data)}
}

func plain(t testing.TB, layer []byte) []byte {
	t.Helper()
	r, err := oci.Decompress(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (i *Image) config(t testing.TB) map[string]any {
	var ids []string
	for _, l := range i.Layers {
		ids = append(ids, digest(plain(t, l)))
	}
	return map[string]any{"architecture": i.Architecture, "os": "linux", "config": i.Config, "rootfs": map[string]any{"type": "layers", "diff_ids": ids}}
}

// all makes the image's blobs and an index that also names another platform's
// image. It returns the index.
func (i *Image) all(t testing.TB, b blobs) []byte {
	t.Helper()
	var layers []any
	for _, l := range i.Layers {
		layers = append(layers, b.add(t, "application/vnd.oci.image.layer.v1.tar+gzip", l))
	}
	m := b.add(t, "application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": b.add(t, "application/vnd.oci.image.config.v1+json", i.config(t)), "layers": layers,
	})
	m["platform"] = map[string]string{"architecture": i.Architecture, "os": "linux"}
	other := b.add(t, "application/vnd.oci.image.manifest.v1+json", []byte("{}"))
	other["platform"] = map[string]string{"architecture": "other", "os": "linux"}
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []any{other, m},
	})
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// WriteLayout writes an OCI layout folder.
func WriteLayout(t testing.TB, dir string, i Image) {
	t.Helper()
	b := make(blobs)
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": i.all(t, b)}
	for d, data := range b {
		files["blobs/"+strings.ReplaceAll(d, ":", "/")] = data
	}
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TarOf packs a folder.
func TarOf(t testing.TB, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// DockerArchive makes what docker save writes.
func DockerArchive(t testing.TB, i Image, tag string) []byte {
	t.Helper()
	config, err := json.Marshal(i.config(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	name := strings.TrimPrefix(digest(config), "sha256:") + ".json"
	write(name, config)
	var layers []string
	for n, l := range i.Layers {
		layers = append(layers, fmt.Sprintf("layer-%d.tar", n))
		write(layers[n], plain(t, l))
	}
	manifest, err := json.Marshal([]any{map[string]any{"Config": name, "RepoTags": []string{tag}, "Layers": layers}})
	if err != nil {
		t.Fatal(err)
	}
	write("manifest.json", manifest)
	return TarOf(t, dir)
}

// Registry serves the image as NAME:latest over plain HTTP and returns the
// server's host and port.
func Registry(t testing.TB, name string, i Image) string {
	t.Helper()
	b := make(blobs)
	index := i.all(t, b)
	b[digest(index)] = index
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, "/v2/"+name+"/")
		kind, ref, _ := strings.Cut(rest, "/")
		data := b[ref]
		if ref == "latest" {
			data = index
		}
		if !ok || data == nil {
			http.NotFound(w, r)
			return
		}
		if kind == "manifests" {
			var m struct{ MediaType string }
			_ = json.Unmarshal(data, &m)
			w.Header().Set("Content-Type", m.MediaType)
		} else {
			w.Header().Set("Content-Type", "application/octet-stream")
		}
		w.Header().Set("Docker-Content-Digest", digest(data))
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(data)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}
