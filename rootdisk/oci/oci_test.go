package oci_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/rootdisk/oci"
	"github.com/secexec/secexec/rootdisk/oci/ocitest"
)

func layer(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "x", Typeflag: tar.TypeDir}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// readAll opens an image and reads its layers to their ends.
func readAll(t *testing.T, ref string) error {
	t.Helper()
	img, err := oci.Open(t.Context(), ref, oci.Options{SkipTLS: true})
	if err != nil {
		return err
	}
	defer img.Close()
	for n := range img.Layers() {
		r, err := img.Layer(t.Context(), n)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		if e := r.Close(); e != nil {
			err = e
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Each blob of a layout with one byte changed, one too many, one missing, or
// gone: refused, and each time for its digest.
func TestChangedBlobs(t *testing.T) {
	t.Parallel()
	good := filepath.Join(t.TempDir(), "layout")
	ocitest.WriteLayout(t, good, ocitest.Image{Architecture: "s390x", Layers: [][]byte{layer(t)}})
	if err := readAll(t, "oci:"+good); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(good, "blobs/sha256/*"))
	if err != nil || len(blobs) != 4 {
		t.Fatal(blobs, err)
	}
	for _, blob := range blobs {
		data, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		if string(data) == "{}" {
			continue // another platform's
		}
		flipped := bytes.Clone(data)
		flipped[len(data)/2] ^= 1
		for _, bad := range [][]byte{flipped, append(bytes.Clone(data), ' '), data[:len(data)-1], {}} {
			if err := os.WriteFile(blob, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := readAll(t, "oci:"+good); !errors.Is(err, oci.ErrDigest) {
				t.Errorf("%d bytes for %d of %s: %v", len(bad), len(data), data[:min(40, len(data))], err)
			}
		}
		if err := os.Remove(blob); err != nil {
			t.Fatal(err)
		}
		if err := readAll(t, "oci:"+good); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("missing: %v", err)
		}
		if err := os.Symlink("/dev/zero", blob); err != nil {
			t.Fatal(err)
		}
		if err := readAll(t, "oci:"+good); err == nil {
			t.Error("a link out of the layout is followed")
		}
		if err := errors.Join(os.Remove(blob), os.WriteFile(blob, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	amd64 := ocitest.Image{Architecture: "amd64", Layers: [][]byte{layer(t)}}
	dir := filepath.Join(t.TempDir(), "amd64")
	ocitest.WriteLayout(t, dir, amd64)
	server := ocitest.Registry(t, "a/b", amd64)
	docker := filepath.Join(t.TempDir(), "docker.tar")
	if err := os.WriteFile(docker, ocitest.DockerArchive(t, amd64, "x:1"), 0o600); err != nil {
		t.Fatal(err)
	}
	index := func(text string) string {
		dir := t.TempDir()
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600),
			os.WriteFile(filepath.Join(dir, "index.json"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return "oci:" + dir
	}
	entry := `{"digest":"sha256:` + strings.Repeat("0", 64) + `","size":1}`
	for name, c := range map[string]struct {
		ref  string
		want error
	}{
		"no transport":     {"debian", oci.ErrReference},
		"empty":            {"docker://", oci.ErrReference},
		"bad name":         {"docker://UPPER/case:x y", oci.ErrReference},
		"layout, other":    {"oci:" + dir, oci.ErrReference},
		"registry, other":  {"docker://" + server + "/a/b", oci.ErrPlatform},
		"docker, other":    {"docker-archive:" + docker, oci.ErrPlatform},
		"docker, no tag":   {"docker-archive:" + docker + ":y:2", oci.ErrReference},
		"docker as layout": {"oci-archive:" + docker, oci.ErrImage},
		"version 1":        {index(`{"schemaVersion":1}`), oci.ErrImage},
		"both":             {index(`{"schemaVersion":2,"config":` + entry + `,"manifests":[]}`), oci.ErrImage},
		"bomb":             {index(`{"schemaVersion":2,"manifests":[` + strings.Repeat(entry+",", 2000) + entry + `]}`), oci.ErrImage},
		"large":            {index(`{"schemaVersion":2,` + strings.Repeat(" ", 5<<20) + `"manifests":[]}`), oci.ErrImage},
		"odd digest":       {index(`{"schemaVersion":2,"manifests":[{"digest":"sha256:../../../etc/passwd","size":1}]}`), oci.ErrImage},
		"negative":         {index(`{"schemaVersion":2,"manifests":[{"digest":"sha256:` + strings.Repeat("0", 64) + `","size":-1}]}`), oci.ErrImage},
		"huge document":    {index(`{"schemaVersion":2,"manifests":[{"digest":"sha256:` + strings.Repeat("0", 64) + `","size":99999999}]}`), oci.ErrImage},
	} {
		if err := readAll(t, c.ref); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
