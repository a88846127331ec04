package artifact

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/secexec/secexec/bundle"
)

// quickImage pushes as a container image, in pieces as small as quick's.
func quickImage() Options {
	o := quick()
	o.Image, o.Parallel = true, 1
	return o
}

func TestImageThereAndBack(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir := sample(t, 1, hostA)
	for name, ref := range map[string]string{
		"registry": newRegistry(t).ref("v1"), "layout": "oci:" + filepath.Join(t.TempDir(), "layout") + ":v1",
		"archive": "oci-archive:" + filepath.Join(t.TempDir(), "a.tar") + ":example.com/team/hello:v1",
	} {
		for _, form := range []Options{quick(), quickImage()} {
			sum, err := push(t, dir, ref, form)
			if err != nil || sum.Moved != sum.Total || sum.Total < imageSize+diskSize {
				t.Fatalf("%s: pushed %+v, %v", name, sum, err)
			}
			again, err := push(t, dir, ref, form)
			if err != nil || again.Digest != sum.Digest || again.Moved != 0 && name != "archive" {
				t.Errorf("%s: pushed again %+v, %v", name, again, err)
			}
			from, err := Open(t.Context(), ref, Access{PlainHTTP: true}, false)
			if err != nil {
				t.Fatal(err)
			}
			if m, err := ReadManifest(t.Context(), from, quick()); err != nil || m.Image.ID != sum.Manifest.Image.ID {
				t.Errorf("%s: manifest: %v", name, err)
			}
			parent := t.TempDir()
			out := filepath.Join(parent, "out")
			got, err := pullTo(t, ref, out, quick())
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			same(t, dir, out)
			if got.Digest != sum.Digest || got.Moved < imageSize+diskSize {
				t.Errorf("%s: pulled %+v", name, got)
			}
			o := quick()
			o.Existing = out
			if got, err := pullTo(t, ref, out, o); err != nil || got.Moved != 0 {
				t.Errorf("%s: pulled again over the same: %+v, %v", name, got, err)
			}
			if left := entries(t, parent); len(left) != 1 {
				t.Errorf("%s: beside the bundle: %v", name, left)
			}
		}
	}
}

// The layer is what containerd unpacks: the bundle's files in its root, by any
// tar reader; and the bytes are the same on every machine and at all times.
func TestImageBytes(t *testing.T) {
	t.Parallel()
	dir := sample(t, 1, hostA)
	path := filepath.Join(t.TempDir(), "a.tar")
	sum, err := push(t, dir, "oci-archive:"+path+":v1", quickImage())
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for r := tar.NewReader(bytes.NewReader(whole)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	var om ocispec.Manifest
	if err := json.Unmarshal(files["blobs/sha256/"+strings.TrimPrefix(sum.Digest, "sha256:")], &om); err != nil {
		t.Fatal(err)
	}
	if len(om.Layers) != 1 || om.Annotations[HostKeyHashes] != hostA || om.ArtifactType != "" {
		t.Errorf("manifest is %+v", om)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(files["blobs/sha256/"+om.Layers[0].Digest.Encoded()])); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		got, err := io.ReadAll(r)
		want, err2 := os.ReadFile(filepath.Join(dir, h.Name))
		if errors.Join(err, err2) != nil || !bytes.Equal(got, want) || h.Mode != 0o444 || h.Uid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%+v: %v %v", h, err, err2)
		}
	}
	if !slices.Equal(names, []string{"bundle.json", "boot.seimg", "root.img"}) {
		t.Errorf("the layer has %v", names)
	}
	for what, c := range map[string][2]string{"manifest": {sum.Digest, goldenManifest}, "archive": {digestOf(whole), goldenArchive}} {
		if c[0] != c[1] {
			t.Errorf("%s has digest %s, wants %s: a changed form, or bytes that depend on something else", what, c[0], c[1])
		}
	}
}

// A disk of more than 8 GiB: its size fits no old tar header.
func TestLargeTarball(t *testing.T) {
	t.Parallel()
	m := &bundle.Manifest{
		Version: bundle.Version, Name: "hello", Identity: strings.Repeat("1d", 32), MemoryMiB: 512,
		Image:    bundle.Image{Part: bundle.Part{File: "boot.seimg", Size: 1, SHA256: strings.Repeat("00", 32)}, ID: strings.Repeat("0a", 16)},
		Disks:    []bundle.Disk{{Part: bundle.Part{File: "root.img", Size: 1 << 40, SHA256: strings.Repeat("00", 32)}, Serial: "root", Format: "raw"}},
		KeySlots: []bundle.KeySlot{{HostKeyHash: hostA, Subject: "CN=host"}},
	}
	ball, err := newTarball(m)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(io.MultiReader(bytes.NewReader(ball.fixed[0]), strings.NewReader("x"), bytes.NewReader(ball.fixed[1])))
	var last *tar.Header
	for range 3 {
		if last, err = r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if last.Name != "root.img" || last.Size != 1<<40 {
		t.Errorf("got %+v", last)
	}
	if got := digestOf(slices.Concat(ball.fixed...)); got != goldenLarge {
		t.Errorf("the headers' digest is %s, wants %s", got, goldenLarge)
	}
}

// Golden digests: what was pushed once is found again by its digest.
const (
	goldenManifest = "sha256:4c1c19c40048b1444e84c4fced9ec538d79c63eadb1a0dbd84d9d462f2a08959"
	goldenArchive  = "sha256:b45a3c5314ef8e1e6946e9549d30592a5ceb66fcce0cd1a89d0e44664745041a"
	goldenLarge    = "sha256:5d0e46f7dbe136f76ca093b08565c9af4682af3fe9d92e85736c64853d60a3b9"
)

// Any read of the archive gives the bytes that reading all of it gives.
func TestArchivedReadAt(t *testing.T) {
	t.Parallel()
	b, err := bundle.Open(sample(t, 1, hostA))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ball, err := newTarball(&b.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	a, err := openTarball(ball, b)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	whole, err := io.ReadAll(io.NewSectionReader(a, 0, ball.size))
	if err != nil || int64(len(whole)) != ball.size {
		t.Fatalf("%d bytes of %d: %v", len(whole), ball.size, err)
	}
	if d, err := ball.digest(t.Context(), b.CopyPart); err != nil || string(d) != digestOf(whole) {
		t.Fatalf("digest %s: %v", d, err)
	}
	for _, at := range []int64{0, 1, 511, 512, ball.offset(0) - 1, ball.offset(0), ball.offset(1) - 1, ball.offset(1), ball.size - 1025, ball.size - 1} {
		for _, n := range []int64{1, 512, testChunk + 1, 2 * imageSize} {
			got := make([]byte, n)
			k, err := a.ReadAt(got, at)
			want := whole[at:min(at+n, ball.size)]
			if k != len(want) || !bytes.Equal(got[:k], want) || (err == nil) != (int64(k) == n) {
				t.Errorf("%d bytes at %d: got %d, %v", n, at, k, err)
			}
		}
	}
}

// An upload that was interrupted goes on in another process where it stopped;
// also where the registry does not know its session any more, and where it takes
// no pieces at all.
func TestInterruptedImages(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	g := newRegistry(t)
	dir := sample(t, 1, hostA)
	cut := func(method string, n int32, what func(w http.ResponseWriter, r *http.Request)) *atomic.Int32 {
		used := new(atomic.Int32)
		g.setFault(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == method && strings.Contains(r.URL.Path, "/blobs/") && used.Add(1) > n {
				what(w, r)
				return true
			}
			return false
		})
		return used
	}
	abort := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	cut(http.MethodPatch, 3, abort)
	if _, err := push(t, dir, g.ref("v1"), quickImage()); err == nil {
		t.Fatal("push did not fail")
	}
	if len(g.manifests) != 0 {
		t.Error("a tag before its layer")
	}
	g.setFault(nil)
	sum, err := push(t, dir, g.ref("v1"), quickImage())
	if err != nil || sum.Moved != sum.Total-3*testChunk {
		t.Errorf("push went on with %+v, %v", sum, err)
	}

	// The pull, likewise.
	parent := t.TempDir()
	out := filepath.Join(parent, "out")
	half := func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		body := g.blobs[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]]
		g.mu.Unlock()
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body[:len(body)/2])
	}
	cut(http.MethodGet, 2, half) // config and the layer's head
	if _, err := pullTo(t, g.ref("v1"), out, quick()); err == nil {
		t.Fatal("pull did not fail")
	}
	g.setFault(nil)
	got, err := pullTo(t, g.ref("v1"), out, quick())
	if err != nil || got.Moved > got.Total*3/5 {
		t.Errorf("pull went on with %+v, %v", got, err)
	}
	same(t, dir, out)

	// What an interrupted pull left was not what it should be.
	other := filepath.Join(parent, "other")
	if err := os.Mkdir(filepath.Join(parent, ".other.resume"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(parent, ".other.resume", "root.img"), make([]byte, diskSize), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pullTo(t, g.ref("v1"), other, quick()); err != nil {
		t.Error(err)
	}
	same(t, dir, other)

	for name, spoil := range map[string]func(){
		"session is gone": func() {
			cut(http.MethodPatch, 2, abort)
			_, _ = push(t, dir, g.ref("v2"), quickImage())
			g.setFault(nil)
			g.sessions = make(map[string][]byte)
		},
		"no pieces": func() {
			cut(http.MethodPatch, 0, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) })
		},
		"a piece's answer is lost": func() {
			var once atomic.Bool
			g.setFault(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPatch && once.CompareAndSwap(false, true) {
					g.patch(httpDiscard{}, r)
					panic(http.ErrAbortHandler)
				}
				return false
			})
		},
	} {
		g.setFault(nil)
		clear(g.blobs)
		spoil()
		if sum, err := push(t, dir, g.ref("v2"), quickImage()); err != nil {
			t.Errorf("%s: %+v, %v", name, sum, err)
		}
		g.setFault(nil)
		out := filepath.Join(parent, strings.ReplaceAll(name, " ", "-"))
		if _, err := pullTo(t, g.ref("v2"), out, quick()); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		same(t, dir, out)
	}

	// A registry that never takes a piece ends the push.
	clear(g.blobs)
	cut(http.MethodPatch, 1, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	if _, err := push(t, dir, g.ref("v3"), quickImage()); err == nil {
		t.Error("pushed nowhere")
	}
	// So does one that forgets what it took.
	cut(http.MethodPatch, 0, func(w http.ResponseWriter, r *http.Request) {
		g.patch(w, r)
		g.mu.Lock()
		clear(g.sessions)
		g.mu.Unlock()
	})
	if _, err := push(t, dir, g.ref("v3"), quickImage()); !errors.Is(err, ErrInvalid) {
		t.Errorf("a registry that forgets: %v", err)
	}
	cut(http.MethodPatch, 0, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://127.0.0.1:1"+r.URL.Path)
		w.WriteHeader(http.StatusAccepted)
	})
	if _, err := push(t, dir, g.ref("v3"), quickImage()); !errors.Is(err, ErrInvalid) {
		t.Errorf("session elsewhere: %v", err)
	}
}

type httpDiscard struct{}

func (httpDiscard) Header() http.Header         { return http.Header{} }
func (httpDiscard) Write(b []byte) (int, error) { return len(b), nil }
func (httpDiscard) WriteHeader(int)             {}

// recompress makes of a pushed image what tools that copy images make of it.
func recompress(t *testing.T, g *fakeRegistry, mediaType string, compress func(io.Writer) io.WriteCloser) {
	t.Helper()
	editImage(t, g, func(m *ocispec.Manifest, _ *ocispec.Image) {
		var out bytes.Buffer
		w := compress(&out)
		_, err := w.Write(g.blobs[string(m.Layers[0].Digest)])
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		g.blobs[digestOf(out.Bytes())] = out.Bytes()
		m.Layers[0] = ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(digestOf(out.Bytes())), Size: int64(out.Len())}
	})
}

// editImage changes manifest and config of the image v1.
func editImage(t *testing.T, g *fakeRegistry, change func(m *ocispec.Manifest, c *ocispec.Image)) {
	t.Helper()
	var m ocispec.Manifest
	var c ocispec.Image
	err := json.Unmarshal(g.manifests["v1"], &m)
	if err = errors.Join(err, json.Unmarshal(g.blobs[string(m.Config.Digest)], &c)); err != nil {
		t.Fatal(err)
	}
	change(&m, &c)
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	g.blobs[digestOf(config)] = config
	if size := m.Config.Size; size < 1<<30 { // unless the change is about it
		m.Config.Digest, m.Config.Size = digest.Digest(digestOf(config)), int64(len(config))
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	g.put("v1", m.MediaType, text)
}

func TestCompressedLayers(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	gz := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	zs := func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	for mediaType, compress := range map[string]func(io.Writer) io.WriteCloser{
		ocispec.MediaTypeImageLayerGzip: gz, dockerLayerGz: gz, ocispec.MediaTypeImageLayerZstd: zs,
	} {
		g := newRegistry(t)
		dir := sample(t, 1, hostA)
		if _, err := push(t, dir, g.ref("v1"), quickImage()); err != nil {
			t.Fatal(err)
		}
		recompress(t, g, mediaType, compress)
		out := filepath.Join(t.TempDir(), "out")
		if _, err := pullTo(t, g.ref("v1"), out, quick()); err != nil {
			t.Errorf("%s: %v", mediaType, err)
			continue
		}
		same(t, dir, out)
	}
}

// What a registry can do to who pulls an image: nothing but refuse.
func TestHostileImages(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	// layer changes the layer's bytes, and whatever names them.
	layer := func(change func(b []byte) []byte) func(*testing.T, *fakeRegistry) {
		return func(t *testing.T, g *fakeRegistry) {
			editImage(t, g, func(m *ocispec.Manifest, c *ocispec.Image) {
				b := change(bytes.Clone(g.blobs[string(m.Layers[0].Digest)]))
				d := digest.Digest(digestOf(b))
				g.blobs[string(d)] = b
				m.Layers[0].Digest, m.Layers[0].Size, c.RootFS.DiffIDs[0] = d, int64(len(b)), d
			})
		}
	}
	edit := func(change func(m *ocispec.Manifest, c *ocispec.Image)) func(*testing.T, *fakeRegistry) {
		return func(t *testing.T, g *fakeRegistry) { editImage(t, g, change) }
	}
	archive := func(headers ...*tar.Header) func([]byte) []byte {
		return func([]byte) []byte {
			var out bytes.Buffer
			w := tar.NewWriter(&out)
			for _, h := range headers {
				if err := w.WriteHeader(h); err != nil {
					t.Fatal(err)
				}
			}
			return out.Bytes()
		}
	}
	for name, spoil := range map[string]func(*testing.T, *fakeRegistry){
		"another image":         edit(func(_ *ocispec.Manifest, c *ocispec.Image) { c.Config.Entrypoint = []string{"/bin/sh"} }),
		"with a command":        edit(func(_ *ocispec.Manifest, c *ocispec.Image) { c.Config.Cmd = []string{"x"} }),
		"another machine":       edit(func(_ *ocispec.Manifest, c *ocispec.Image) { c.Architecture = "amd64" }),
		"two layers":            edit(func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers = append(m.Layers, m.Layers[0]) }),
		"no layer":              edit(func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers = nil }),
		"foreign layer":         edit(func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].MediaType = "text/plain" }),
		"two layers in config":  edit(func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, "x") }),
		"digest of no kind":     edit(func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[0] = "sha256:../../x" }),
		"another digest":        edit(func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[0] = digest.FromString("") }),
		"config of a GiB":       edit(func(m *ocispec.Manifest, _ *ocispec.Image) { m.Config.Size = 1 << 30 }),
		"layer of a GiB":        edit(func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Size = 1 << 30 }),
		"gzip that is none":     edit(func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].MediaType = ocispec.MediaTypeImageLayerGzip }),
		"empty layer":           layer(func([]byte) []byte { return make([]byte, 1024) }),
		"no layer at all":       layer(func([]byte) []byte { return []byte("x") }),
		"another byte in front": layer(func(b []byte) []byte { b[100] ^= 1; return b }),
		"another byte in json":  layer(func(b []byte) []byte { b[600] ^= 1; return b }),
		"another byte in disk":  layer(func(b []byte) []byte { b[len(b)-4096] ^= 1; return b }),
		"more behind":           layer(func(b []byte) []byte { return append(b, make([]byte, 512)...) }),
		"less of it":            layer(func(b []byte) []byte { return b[:len(b)-testChunk] }),
		"json of a GiB":         layer(archive(&tar.Header{Name: "bundle.json", Size: 1 << 30, Mode: 0o444})),
		"another file":          layer(archive(&tar.Header{Name: "../bundle.json", Size: 1, Mode: 0o444})),
		"link":                  layer(archive(&tar.Header{Name: "bundle.json", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"})),
	} {
		t.Run(name, func(t *testing.T) {
			g := newRegistry(t)
			if _, err := push(t, sample(t, 1, hostA), g.ref("v1"), quickImage()); err != nil {
				t.Fatal(err)
			}
			spoil(t, g)
			parent := t.TempDir()
			_, err := pullTo(t, g.ref("v1"), filepath.Join(parent, "out"), quick())
			if err == nil {
				t.Error("pulled")
			} else if name != "layer of a GiB" && !errors.Is(err, ErrInvalid) && !errors.Is(err, bundle.ErrManifest) {
				t.Errorf("error of another kind: %v", err)
			}
			for _, left := range entries(t, parent) {
				if left != ".out.resume" {
					t.Errorf("left %s", left)
				}
			}
		})
	}
}

// Any bytes are refused or are the beginning of one bundle's only archive.
func FuzzLayerHead(f *testing.F) {
	b, err := bundle.Open(sample(f, 1, hostA))
	if err != nil {
		f.Fatal(err)
	}
	defer b.Close()
	ball, err := newTarball(&b.Manifest)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ball.fixed[0])
	f.Add(ball.fixed[0][:700])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, head []byte) {
		m, err := readHead(bytes.NewReader(head))
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, bundle.ErrManifest) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		ball, err := newTarball(m)
		if err != nil {
			t.Fatal(err)
		}
		text, err := m.Marshal()
		if n := 512 + len(text); err != nil || !bytes.Equal(head[:n], ball.fixed[0][:n]) {
			t.Fatalf("another archive begins so: %v", err)
		}
	})
}
