package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/bundle"
)

// layoutRegistry serves an OCI layout folder as the repository "team/hello" of a
// registry, to readers.
func layoutRegistry(t *testing.T, layout string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, _ := strings.CutPrefix(r.URL.Path, "/v2/team/hello/")
		kind, name, _ := strings.Cut(rest, "/")
		if kind == "manifests" {
			var index struct {
				Manifests []struct {
					MediaType, Digest string
					Annotations       map[string]string
				}
			}
			text, err := os.ReadFile(filepath.Join(layout, "index.json"))
			if err != nil || json.Unmarshal(text, &index) != nil {
				http.NotFound(w, r)
				return
			}
			for _, m := range index.Manifests {
				if m.Annotations["org.opencontainers.image.ref.name"] == name {
					name = m.Digest
				}
				if m.Digest == name {
					w.Header().Set("Content-Type", m.MediaType)
					w.Header().Set("Docker-Content-Digest", m.Digest)
				}
			}
		}
		http.ServeFile(w, r, filepath.Join(layout, "blobs", filepath.FromSlash(strings.Replace(name, ":", "/", 1))))
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// smallBundle writes a bundle whose parts are no more than bytes.
func smallBundle(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "hello")
	var parts []bundle.Part
	for _, name := range []string{"boot.seimg", "root.img"} {
		text := []byte("bytes of " + name)
		p, err := bundle.Describe(t.Context(), name, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name), text)
		parts = append(parts, p)
	}
	m := bundle.Manifest{
		Version: 1, Name: "hello", Image: bundle.Image{Part: parts[0], ID: strings.Repeat("0a", 16)}, Disks: []bundle.Disk{{Part: parts[1], Serial: "root", Format: "raw"}},
		KeySlots: []bundle.KeySlot{{HostKeyHash: strings.Repeat("5e", 32), Subject: "CN=host"}}, Identity: strings.Repeat("1d", 32), MemoryMiB: 512,
	}
	text, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, bundle.ManifestFile), text)
	return dir
}

func writeFile(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// What is in a registry makes the same pod as the folder that it was pushed from,
// and is the pod's image.
func TestKubernetesManifestOfWhatWasPushed(t *testing.T) {
	t.Parallel()
	run := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		root := newRoot()
		root.SetOut(&out)
		root.SetErr(t.Output())
		root.SetArgs(args)
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return out.String()
	}
	dir, layout := smallBundle(t), filepath.Join(t.TempDir(), "layout")
	run("bundle", "push", "--format", "image", dir, "oci:"+layout+":v1")
	reference := layoutRegistry(t, layout) + "/team/hello:v1"
	want := run("kubernetes", "manifest", dir, "--image", reference)
	if !strings.Contains(want, "image: ") || !strings.Contains(want, reference) {
		t.Fatal(want)
	}
	for _, args := range [][]string{{"docker://" + reference, "--plain-http"}, {"oci:" + layout + ":v1", "--image", reference}} {
		if got := run(append([]string{"kubernetes", "manifest"}, args...)...); got != want {
			t.Errorf("%v: got\n%s\nwants\n%s", args, got, want)
		}
	}
}
