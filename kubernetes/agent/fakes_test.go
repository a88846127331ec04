package agent

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/kubernetes"
	"github.com/secexec/secexec/kubernetes/deviceplugin"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/readiness/report"
	"github.com/secexec/secexec/shim/ledger"
)

// within bounds every wait: the machine may be slow.
const within = 60 * time.Second

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// fakeHostagent has guests that sign reports.
type fakeHostagent struct {
	hostagentv1.HostagentService
	socket string
	key    ed25519.PrivateKey

	mu         sync.Mutex
	server     *ttrpc.Server
	info       *hostagentv1.NodeInfoResponse
	guests     []*hostagentv1.Guest
	imageID    []byte
	challenges int
	changed    chan struct{} // closed at a change
}

func newHostagent(t *testing.T, socket string) *fakeHostagent {
	t.Helper()
	h := &fakeHostagent{
		socket: socket, key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), imageID: make([]byte, readiness.IDSize), changed: make(chan struct{}),
		info: &hostagentv1.NodeInfoResponse{
			Version: "v1.2", Platform: "se", Protected: true, MemoryMib: 4096, HostKeyHashesKnown: true, HostKeyHashes: []string{strings.Repeat("5e", 32)},
		},
	}
	h.start(t)
	t.Cleanup(h.stop)
	return h
}

func (h *fakeHostagent) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", h.socket)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	hostagentv1.RegisterHostagentService(server, h)
	h.mu.Lock()
	h.server = server
	h.mu.Unlock()
	go func() { _ = server.Serve(context.Background(), l) }() // until stop
}

func (h *fakeHostagent) stop() {
	h.mu.Lock()
	server := h.server
	h.mu.Unlock()
	server.Close()
	os.Remove(h.socket)
}

// change changes something and tells those who follow.
func (h *fakeHostagent) change(do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do()
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *fakeHostagent) NodeInfo(context.Context, *hostagentv1.NodeInfoRequest) (*hostagentv1.NodeInfoResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return proto.CloneOf(h.info), nil
}

func (h *fakeHostagent) List(context.Context, *hostagentv1.ListRequest) (*hostagentv1.ListResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return proto.CloneOf(&hostagentv1.ListResponse{Guests: h.guests}), nil
}

func (h *fakeHostagent) Events(ctx context.Context, _ *hostagentv1.EventsRequest, s hostagentv1.Hostagent_EventsServer) error {
	for sequence := uint64(1); ; sequence++ {
		h.mu.Lock()
		changed := h.changed
		e := &hostagentv1.Event{Epoch: "e", Sequence: sequence}
		if sequence > 1 {
			e.Guest = &hostagentv1.Guest{Name: "any"}
		}
		h.mu.Unlock()
		if err := s.Send(e); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *fakeHostagent) Challenge(_ context.Context, r *hostagentv1.ChallengeRequest) (*hostagentv1.ChallengeResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.challenges++
	raw, err := report.Sign(h.key, report.Claims{
		Nonce: r.Nonce, ImageID: h.imageID, BootID: make([]byte, readiness.IDSize), RootID: make([]byte, readiness.IDSize), BootKey: make([]byte, ed25519.PublicKeySize),
		Stages:   []report.Stage{{Name: readiness.StageReady, Millis: 1}},
		RootMode: "crypt", ReadyAt: "handover", Profile: report.Profile,
	})
	return &hostagentv1.ChallengeResponse{Report: raw}, err
}

func (h *fakeHostagent) identity() string {
	return hex.EncodeToString(h.key.Public().(ed25519.PublicKey))
}

// fakeServer is an API server that has one node and some pods.
type fakeServer struct {
	*httptest.Server
	token string // file

	mu      sync.Mutex
	labels  map[string]string
	pods    map[string]*pod // by namespace/name
	patches int
	refuse  int // HTTP status for what comes, 0: none
	bearer  string
}

func newServer(t *testing.T) (*fakeServer, *Server) {
	t.Helper()
	f := &fakeServer{labels: map[string]string{"kubernetes.io/arch": "s390x"}, pods: map[string]*pod{}, bearer: "first"}
	f.Server = httptest.NewTLSServer(f)
	t.Cleanup(f.Close)
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	f.token = filepath.Join(dir, "token")
	for path, text := range map[string]string{filepath.Join(dir, "ca.crt"): string(ca), f.token: f.bearer + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f, &Server{URL: f.URL, CAFile: filepath.Join(dir, "ca.crt"), TokenFile: f.token}
}

// ServeHTTP answers as kube-apiserver does, as far as it is asked.
func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fail := func(code int, words string) {
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"kind":"Status","status":"Failure","message":%q,"code":%d}`, words, code)
	}
	body, err := io.ReadAll(r.Body)
	switch {
	case err != nil:
		fail(http.StatusBadRequest, err.Error())
		return
	case r.Header.Get("Authorization") != "Bearer "+f.bearer:
		fail(http.StatusUnauthorized, "Unauthorized")
		return
	case f.refuse != 0:
		fail(f.refuse, "no")
		return
	}
	key, isStatus := strings.CutSuffix(strings.TrimPrefix(strings.Replace(r.URL.Path, "/pods/", "/", 1), "/api/v1/namespaces/"), "/status")
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/nodes/n1":
		_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{"labels": f.labels}})
	case r.Method == http.MethodPatch && r.URL.Path == "/api/v1/nodes/n1" && r.Header.Get("Content-Type") == mergePatch:
		var patch struct {
			Metadata struct{ Labels map[string]*string }
		}
		if err := json.Unmarshal(body, &patch); err != nil {
			fail(http.StatusBadRequest, err.Error())
			return
		}
		f.patches++
		for k, v := range patch.Metadata.Labels {
			if v == nil {
				delete(f.labels, k)
			} else {
				f.labels[k] = *v
			}
		}
		fmt.Fprint(w, "{}")
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/pods" && r.URL.Query().Get("fieldSelector") == "spec.nodeName=n1":
		list := []*pod{}
		for _, p := range f.pods {
			list = append(list, p)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"items": list})
	case r.Method == http.MethodPatch && isStatus && r.Header.Get("Content-Type") == strategicPatch:
		var patch pod
		p := f.pods[key]
		switch err := json.Unmarshal(body, &patch); {
		case err != nil:
			fail(http.StatusBadRequest, err.Error())
		case p == nil:
			fail(http.StatusNotFound, "not found")
		case patch.Metadata.UID != p.Metadata.UID:
			fail(http.StatusConflict, "another uid")
		default:
			f.patches++
			p.Status.Conditions = append([]condition{{Type: "PodScheduled", Status: "True"}}, patch.Status.Conditions...)
			fmt.Fprint(w, "{}")
		}
	default:
		fail(http.StatusNotFound, "no such path: "+r.Method+" "+r.URL.Path)
	}
}

func (f *fakeServer) label(key string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.labels[key]
}

// condition is a pod's.
func (f *fakeServer) condition(name string) condition {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.pods[name].Status.Conditions {
		if c.Type == kubernetes.ConditionVerified {
			return c
		}
	}
	return condition{}
}

// guestID is a container's id, guestName its guest's name.
const guestID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

var guestName = ledger.GuestName("k8s.io", guestID)

func newPod(name, container string, annotations map[string]string) *pod {
	text, _ := json.Marshal(map[string]any{
		"metadata": map[string]any{"name": name, "namespace": "shop", "uid": "uid-" + name, "annotations": annotations},
		"spec":     map[string]any{"readinessGates": []any{map[string]any{"conditionType": kubernetes.ConditionVerified}}},
		"status":   map[string]any{"phase": "Running", "containerStatuses": []any{map[string]any{"containerID": container}}},
	})
	p := new(pod)
	if err := json.Unmarshal(text, p); err != nil {
		panic(err)
	}
	return p
}

// start runs an agent until the test ends.
func start(t *testing.T, h *fakeHostagent, s *Server, kubelet string, change func(*Agent)) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	a := &Agent{
		Node: "n1", Server: s, Log: log, Every: 100 * time.Millisecond, Patience: 500 * time.Millisecond,
		Dial:   func(ctx context.Context) (*client.Client, error) { return client.Dial(ctx, h.socket, nil) },
		Plugin: deviceplugin.New(kubelet, "secexec.sock", kubernetes.ResourceGuest, log),
		Places: Places{MemoryMiB: DefaultPlaceMemory},
	}
	if change != nil {
		change(a)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// shortDir is a folder whose sockets' paths fit in a sockaddr.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
