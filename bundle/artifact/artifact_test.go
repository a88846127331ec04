package artifact

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"github.com/secexec/secexec/bundle"
)

var (
	hostA = strings.Repeat("5e", 32)
	hostB = strings.Repeat("b0", 32)
)

// What tests move, in bytes: under qemu-user a MiB takes a tenth of a second to
// hash, and is hashed many times.
const (
	testChunk = 64 << 10
	imageSize = testChunk * 3 / 2
	diskSize  = testChunk * 21 / 4
)

// quick makes chunks small enough for a test, and pauses short.
func quick() Options {
	return Options{tuning: &tuning{chunk: testChunk, pause: time.Millisecond, stall: 20 * time.Second}}
}

// sample writes a bundle of an image of one and a half chunks and a disk of five
// and a quarter.
func sample(t testing.TB, seed uint64, host string) string {
	t.Helper()
	r := rand.NewChaCha8([32]byte{byte(seed)})
	random := func(n int) []byte {
		b := make([]byte, n)
		_, _ = r.Read(b)
		return b
	}
	return write(t, random(imageSize), random(diskSize), host)
}

func write(t testing.TB, image, disk []byte, host string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bundle")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	describe := func(name string, data []byte) bundle.Part {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := bundle.Describe(t.Context(), name, bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	m := bundle.Manifest{
		Version: bundle.Version, Name: "hello", Identity: strings.Repeat("1d", 32), MemoryMiB: 512,
		Image:    bundle.Image{Part: describe("boot.seimg", image), ID: strings.Repeat("0a", 16)},
		Disks:    []bundle.Disk{{Part: describe("root.img", disk), Serial: "root", Format: "raw"}},
		KeySlots: []bundle.KeySlot{{HostKeyHash: host, Subject: "CN=host"}},
	}
	text, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, bundle.ManifestFile), text, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func push(t testing.TB, dir, ref string, o Options) (*Summary, error) {
	t.Helper()
	b, err := bundle.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	to, err := Open(t.Context(), ref, Access{PlainHTTP: true}, true)
	if err != nil {
		t.Fatal(err)
	}
	return Push(t.Context(), b, to, o)
}

func pullTo(t testing.TB, ref, dir string, o Options) (*Summary, error) {
	t.Helper()
	from, err := Open(t.Context(), ref, Access{PlainHTTP: true}, false)
	if err != nil {
		return nil, err
	}
	return Pull(t.Context(), from, dir, o)
}

func mustPush(t testing.TB, dir, ref string) *Summary {
	t.Helper()
	s, err := push(t, dir, ref, quick())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// same compares two bundle folders byte for byte.
func same(t testing.TB, a, b string) {
	t.Helper()
	for _, name := range []string{bundle.ManifestFile, "boot.seimg", "root.img"} {
		x, err1 := os.ReadFile(filepath.Join(a, name))
		y, err2 := os.ReadFile(filepath.Join(b, name))
		if err1 != nil || err2 != nil || !bytes.Equal(x, y) {
			t.Errorf("%s differs: %v %v", name, err1, err2)
		}
	}
}

func entries(t testing.TB, dir string) (out []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

func TestThereAndBack(t *testing.T) {
	t.Parallel()
	for name, ref := range map[string]string{
		"registry": newRegistry(t).ref("v1"), "layout": "oci:" + filepath.Join(t.TempDir(), "layout") + ":v1", "layout, tag latest": "oci:" + filepath.Join(t.TempDir(), "layout"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := sample(t, 1, hostA)
			sum := mustPush(t, dir, ref)
			if sum.Total != imageSize+diskSize || sum.Moved != sum.Total {
				t.Errorf("pushed %+v", sum)
			}
			if again := mustPush(t, dir, ref); again.Moved != 0 || again.Digest != sum.Digest {
				t.Errorf("pushed again: %+v", again)
			}
			parent := t.TempDir()
			out := filepath.Join(parent, "out")
			got, err := pullTo(t, ref, out, quick())
			if err != nil {
				t.Fatal(err)
			}
			same(t, dir, out)
			if got.Digest != sum.Digest || got.Moved != got.Total {
				t.Errorf("pulled %+v", got)
			}
			if left := entries(t, parent); len(left) != 1 {
				t.Errorf("beside the bundle: %v", left)
			}
			if _, err := pullTo(t, ref, out, quick()); err == nil {
				t.Error("pulled over a folder")
			}
		})
	}
}

// A disk that changed in one place moves one chunk, both ways.
func TestOnlyChangedChunksMove(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	old := sample(t, 1, hostA)
	mustPush(t, old, g.ref("v1"))
	image, err1 := os.ReadFile(filepath.Join(old, "boot.seimg"))
	disk, err2 := os.ReadFile(filepath.Join(old, "root.img"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	disk[3*testChunk] ^= 1
	changed := write(t, image, disk, hostA)
	if sum := mustPush(t, changed, g.ref("v2")); sum.Moved != testChunk {
		t.Errorf("pushed %+v", sum)
	}
	for _, replace := range []bool{false, true} {
		out := filepath.Join(t.TempDir(), "out")
		o := quick()
		if o.Existing = old; replace {
			o.Existing = out
			if err := os.CopyFS(out, os.DirFS(old)); err != nil {
				t.Fatal(err)
			}
		}
		sum, err := pullTo(t, g.ref("v2"), out, o)
		if err != nil {
			t.Fatal(err)
		}
		if sum.Moved != testChunk {
			t.Errorf("pulled %+v", sum)
		}
		same(t, changed, out)
	}
}

// What came over before an interruption does not come again.
func TestInterruptedTransfersGoOn(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	dir := sample(t, 1, hostA)
	// cut breaks the connection of a method on blobs once it has been used n times.
	cut := func(method string, n int32) {
		var used atomic.Int32
		g.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == method && strings.Contains(r.URL.Path, "/blobs/") && used.Add(1) > n {
				panic(http.ErrAbortHandler)
			}
			return false
		})
	}
	one := quick()
	one.Parallel = 1
	cut(http.MethodPut, 3)
	if _, err := push(t, dir, g.ref("v1"), one); err == nil {
		t.Fatal("push did not fail")
	}
	if len(g.manifests) != 0 {
		t.Error("a tag before its parts")
	}
	g.setFault(nil)
	if sum, err := push(t, dir, g.ref("v1"), one); err != nil || sum.Moved != sum.Total-testChunk*5/2 {
		t.Errorf("push went on with %+v, %v", sum, err)
	}
	parent := t.TempDir()
	out := filepath.Join(parent, "out")
	cut(http.MethodGet, 1+4) // bundle.json, four chunks
	if _, err := pullTo(t, g.ref("v1"), out, one); err == nil {
		t.Fatal("pull did not fail")
	}
	if got := entries(t, parent); !slices.Equal(got, []string{".out.resume"}) {
		t.Errorf("after the interruption: %v", got)
	}
	g.setFault(nil)
	if sum, err := pullTo(t, g.ref("v1"), out, one); err != nil || sum.Moved != sum.Total-testChunk*7/2 {
		t.Errorf("pull went on with %+v, %v", sum, err)
	}
	same(t, dir, out)
	if got := entries(t, parent); !slices.Equal(got, []string{"out"}) {
		t.Errorf("in the end: %v", got)
	}
}

// Every request fails once, in one of the ways of networks, and all comes over.
func TestPassingFaults(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	var mu sync.Mutex
	seen := make(map[string]bool)
	g.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		key := r.Method + r.URL.Path
		if d := r.URL.Query().Get("digest"); d != "" { // every try has a session of its own
			key = r.Method + d
		}
		if seen[key] || r.Method == http.MethodPost {
			return false
		}
		seen[key] = true
		switch len(seen) % 3 {
		case 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 1:
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			panic(http.ErrAbortHandler)
		}
		return true
	})
	dir := sample(t, 1, hostA)
	mustPush(t, dir, g.ref("v1"))
	out := filepath.Join(t.TempDir(), "out")
	if _, err := pullTo(t, g.ref("v1"), out, quick()); err != nil {
		t.Fatal(err)
	}
	same(t, dir, out)
}

func TestDamagedBundleIsNotPushed(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	dir := sample(t, 1, hostA)
	if err := os.WriteFile(filepath.Join(dir, "root.img"), make([]byte, diskSize), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := push(t, dir, g.ref("v1"), quick()); !errors.Is(err, bundle.ErrDamaged) {
		t.Errorf("got %v", err)
	}
	if len(g.blobs)+len(g.manifests) != 0 {
		t.Error("something was pushed")
	}
}

// An index of several bundles: the host's key hash chooses.
func TestIndex(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	a, b := sample(t, 1, hostA), sample(t, 2, hostB)
	mustPush(t, a, g.ref("a"))
	mustPush(t, b, g.ref("b"))
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for _, tag := range []string{"a", "b"} {
		var m ocispec.Manifest
		if err := json.Unmarshal(g.manifests[tag], &m); err != nil {
			t.Fatal(err)
		}
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: m.MediaType, ArtifactType: m.ArtifactType, Annotations: m.Annotations,
			Size: int64(len(g.manifests[tag])), Digest: digest.Digest(digestOf(g.manifests[tag])),
		})
	}
	text, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	g.put("all", ocispec.MediaTypeImageIndex, text)
	for host, want := range map[string]string{hostA: a, hostB: b} {
		out := filepath.Join(t.TempDir(), "out")
		o := quick()
		o.Hosts = []string{strings.Repeat("00", 32), host}
		if _, err := pullTo(t, g.ref("all"), out, o); err != nil {
			t.Fatal(err)
		}
		same(t, want, out)
	}
	for name, hosts := range map[string][]string{"none given": nil, "another": {strings.Repeat("00", 32)}} {
		parent := t.TempDir()
		o := quick()
		o.Hosts = hosts
		if _, err := pullTo(t, g.ref("all"), filepath.Join(parent, "out"), o); !errors.Is(err, ErrChoice) {
			t.Errorf("%s: %v", name, err)
		}
		if left := entries(t, parent); len(left) != 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	o := quick()
	o.Hosts = []string{hostB}
	if _, err := pullTo(t, g.ref("a"), filepath.Join(t.TempDir(), "out"), o); !errors.Is(err, ErrChoice) {
		t.Errorf("bundle without a slot for the host: %v", err)
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.user = "robot:s3cret"
	host := strings.TrimPrefix(g.URL, "http://")
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for name, c := range map[string]struct {
		auths map[string]string
		ok    bool
	}{
		"host":                  {map[string]string{host: g.user}, true},
		"repository goes first": {map[string]string{host: "x:y", host + "/team/hello": g.user}, true},
		"namespace goes first":  {map[string]string{host: "x:y", host + "/team": g.user}, true},
		"wrong password":        {map[string]string{host: "robot:guess"}, false},
		"another host":          {map[string]string{"example.org": g.user}, false},
		"none":                  {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			auths := make(map[string]any)
			for k, v := range c.auths {
				auths[k] = map[string]string{"auth": encode(v)}
			}
			text, err := json.Marshal(map[string]any{"auths": auths})
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "auth.json")
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := bundle.Open(sample(t, 1, hostA))
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			to, err := Open(t.Context(), g.ref("v1"), Access{PlainHTTP: true, AuthFile: file}, true)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Push(t.Context(), b, to, quick())
			if (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
			if err != nil && (strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), encode(g.user))) {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
	if _, err := Open(t.Context(), g.ref("v1"), Access{AuthFile: "/nowhere"}, false); err == nil {
		t.Error("an auth file that is asked for and not there")
	}
}

func TestReferences(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "other"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"", "hello", "host/UPPER:v1", "host/repo:ta g", "host/../etc:v1", "oci:", "oci:x:", "host/repo@sha256:12"} {
		if _, err := Open(t.Context(), ref, Access{}, true); !errors.Is(err, ErrReference) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if _, err := Open(t.Context(), "host/repo@"+digestOf(nil), Access{}, true); !errors.Is(err, ErrReference) {
		t.Errorf("push to a digest: %v", err)
	}
	if _, err := Open(t.Context(), "oci:"+dir, Access{}, true); err == nil {
		t.Error("layout over a folder with something else")
	}
	if _, err := Open(t.Context(), "oci:"+dir+"/absent:v1", Access{}, false); err == nil {
		t.Error("layout that is not there")
	}
	g := newRegistry(t)
	if _, err := pullTo(t, g.ref("absent"), filepath.Join(dir, "out"), quick()); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("tag that is not there: %v", err)
	}
}

// A registry without TLS is taken when certificates are not asked for.
func TestNoVerifyTakesPlainHTTP(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	mustPush(t, sample(t, 1, hostA), g.ref("v1"))
	from, err := Open(t.Context(), g.ref("v1"), Access{NoVerify: true}, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(t.Context(), from, filepath.Join(t.TempDir(), "out"), quick()); err != nil {
		t.Error(err)
	}
	strict, err := Open(t.Context(), g.ref("v1"), Access{}, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(t.Context(), strict, filepath.Join(t.TempDir(), "out"), quick()); !errors.Is(err, http.ErrSchemeMismatch) {
		t.Errorf("plain HTTP unasked: %v", err)
	}
}

func TestPullStopsWithItsContext(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	mustPush(t, sample(t, 1, hostA), g.ref("v1"))
	ctx, cancel := context.WithCancel(t.Context())
	g.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			cancel()
			<-r.Context().Done()
		}
		return false
	})
	from, err := Open(ctx, g.ref("v1"), Access{PlainHTTP: true}, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Pull(ctx, from, filepath.Join(t.TempDir(), "out"), quick()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
