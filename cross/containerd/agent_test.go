package containerd

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/kubernetes"
	"github.com/secexec/secexec/kubernetes/agent"
	"github.com/secexec/secexec/kubernetes/deviceplugin"
	"github.com/secexec/secexec/owner"
)

// verified wants the node agent to find the guest of a container, to ask it for
// its signed report, and to make its pod ready by the owner's key; and no pod that
// wants another key.
func (k *kubelet) verified(container, bundle string) {
	k.t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.dir, bundle+"-secrets", owner.IdentityPublic))
	if err != nil {
		k.t.Fatal(err)
	}
	key, err := owner.ParseIdentity(text)
	if err != nil {
		k.t.Fatal(err)
	}
	right := hex.EncodeToString(key)
	key[0] ^= 1
	type object map[string]any
	pods := []object{}
	for name, identity := range map[string]string{"right": right, "wrong": hex.EncodeToString(key)} {
		pods = append(pods, object{
			"metadata": object{"name": name, "namespace": "default", "uid": name, "annotations": object{kubernetes.AnnotationIdentity: identity}},
			"spec":     object{"readinessGates": []object{{"conditionType": kubernetes.ConditionVerified}}},
			"status":   object{"phase": "Running", "containerStatuses": []object{{"containerID": "containerd://" + container}}},
		})
	}
	type condition struct{ Status, Reason, Message string }
	var mu sync.Mutex
	conditions := make(map[string]condition) // by pod
	server := http.NewServeMux()
	server.HandleFunc("/api/v1/nodes/n1", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) })
	server.HandleFunc("GET /api/v1/pods", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(object{"items": pods}) })
	server.HandleFunc("PATCH /api/v1/namespaces/default/pods/{name}/status", func(w http.ResponseWriter, r *http.Request) {
		var patch struct {
			Status struct{ Conditions []condition }
		}
		if err := json.NewDecoder(r.Body).Decode(&patch); err != nil || len(patch.Status.Conditions) != 1 {
			http.Error(w, "no condition", http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		conditions[r.PathValue("name")] = patch.Status.Conditions[0]
		_, _ = w.Write([]byte("{}"))
	})
	api := httptest.NewServer(server)
	defer api.Close()

	log := slog.New(slog.NewTextHandler(k.t.Output(), nil))
	a := &agent.Agent{
		Node: "n1", Server: &agent.Server{URL: api.URL}, Log: log,
		Dial:   func(ctx context.Context) (*client.Client, error) { return client.Dial(ctx, k.path("h.sock"), nil) },
		Plugin: deviceplugin.New(k.t.TempDir(), "secexec.sock", kubernetes.ResourceGuest, log), // there is no kubelet's
	}
	ctx, cancel := context.WithCancel(k.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Run(ctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	k.until("the node agent has verified the guest's report", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return conditions["right"].Status == "True" && conditions["wrong"].Reason == "ReportNotVerified"
	})
}
