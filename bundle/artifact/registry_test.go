package artifact

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeRegistry is as much of the OCI distribution API as bundles need, with
// faults on request.
type fakeRegistry struct {
	*httptest.Server
	mu        sync.Mutex
	blobs     map[string][]byte // by digest
	manifests map[string][]byte // by tag and by digest
	types     map[string]string // media type by digest
	sessions  map[string][]byte // uploads by address
	user      string            // "user:password" that every request must give, "" for none
	// fault answers a request in the registry's place; nil or false: it does not.
	fault func(w http.ResponseWriter, r *http.Request) bool
}

func newRegistry(t testing.TB) *fakeRegistry {
	g := &fakeRegistry{blobs: make(map[string][]byte), manifests: make(map[string][]byte), types: make(map[string]string), sessions: make(map[string][]byte)}
	g.Server = httptest.NewServer(g)
	t.Cleanup(g.Close)
	return g
}

// ref names a tag of the registry's one repository.
func (g *fakeRegistry) ref(tag string) string {
	return strings.TrimPrefix(g.URL, "http://") + "/team/hello:" + tag
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// put stores a manifest under its digest and a tag.
func (g *fakeRegistry) put(tag, mediaType string, b []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.manifests[tag], g.manifests[digestOf(b)], g.types[digestOf(b)] = b, b, mediaType
}

func (g *fakeRegistry) setFault(f func(http.ResponseWriter, *http.Request) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fault = f
}

func (g *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	fault := g.fault
	g.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	if user, password, _ := r.BasicAuth(); g.user != "" && user+":"+password != g.user {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/team/hello/")
	kind, name, _ := strings.Cut(path, "/")
	switch {
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	case kind == "blobs" && r.Method == http.MethodPost:
		g.mu.Lock()
		session := fmt.Sprintf("%ssession%d", r.URL.Path, len(g.sessions))
		g.sessions[session] = nil
		g.mu.Unlock()
		w.Header().Set("Location", session)
		w.WriteHeader(http.StatusAccepted)
	case kind == "blobs" && r.Method == http.MethodPatch:
		g.patch(w, r)
	case kind == "blobs" && r.Method == http.MethodGet && strings.HasPrefix(name, "uploads/"):
		g.mu.Lock()
		have, ok := g.sessions[r.URL.Path]
		g.mu.Unlock()
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Location", r.URL.Path)
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(len(have)-1, 0)))
		w.WriteHeader(http.StatusNoContent)
	case kind == "blobs" && r.Method == http.MethodPut:
		body, err := io.ReadAll(r.Body)
		g.mu.Lock()
		body = append(g.sessions[r.URL.Path], body...)
		g.mu.Unlock()
		want := r.URL.Query().Get("digest")
		if err != nil || digestOf(body) != want {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		g.mu.Lock()
		g.blobs[want] = body
		g.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
	case kind == "manifests" && r.Method == http.MethodPut:
		body, _ := io.ReadAll(r.Body)
		g.put(name, r.Header.Get("Content-Type"), body)
		w.WriteHeader(http.StatusCreated)
	default:
		g.get(w, r, kind, name)
	}
}

// patch takes a piece of an upload.
func (g *fakeRegistry) patch(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	g.mu.Lock()
	defer g.mu.Unlock()
	have, ok := g.sessions[r.URL.Path]
	switch {
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	case r.Header.Get("Content-Range") != fmt.Sprintf("%d-%d", len(have), len(have)+len(body)-1):
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
	default:
		g.sessions[r.URL.Path] = append(have, body...)
		w.Header().Set("Location", r.URL.Path)
		w.WriteHeader(http.StatusAccepted)
	}
}

func (g *fakeRegistry) get(w http.ResponseWriter, r *http.Request, kind, name string) {
	g.mu.Lock()
	body, there := g.blobs[name]
	if kind == "manifests" {
		body, there = g.manifests[name]
	}
	mediaType := g.types[digestOf(body)]
	g.mu.Unlock()
	if !there {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if mediaType == "" {
		mediaType = "application/octet-stream"
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digestOf(body))
	if kind == "blobs" {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body)) // with Range
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(body)
	}
}
