package agent

import (
	"encoding/hex"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secexec/secexec/hostagent/metrics"
	"github.com/secexec/secexec/kubernetes"
	"github.com/secexec/secexec/kubernetes/deviceplugin/kubelettest"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// setUp makes all that an agent talks to.
func setUp(t *testing.T) (*fakeHostagent, *fakeServer, *Server, *kubelettest.Kubelet, string) {
	t.Helper()
	dir := shortDir(t)
	kubelet := filepath.Join(dir, "k")
	if err := os.Mkdir(kubelet, 0o700); err != nil {
		t.Fatal(err)
	}
	h := newHostagent(t, filepath.Join(dir, "hostagent.sock"))
	f, s := newServer(t)
	return h, f, s, kubelettest.Start(t, kubelet), kubelet
}

// Labels and places follow hostagent: a key that is added, a problem and its
// end, a hostagent that ends and comes back.
func TestNodeIsToldAsItIs(t *testing.T) {
	t.Parallel()
	h, f, s, k, dir := setUp(t)
	old, _ := kubernetes.HostKeyLabel(strings.Repeat("01", 32))
	one, _ := kubernetes.HostKeyLabel(strings.Repeat("5e", 32))
	f.labels[old] = "true"
	start(t, h, s, dir, nil)
	eventually(t, "labels of the first look", func() bool {
		return f.label(kubernetes.LabelSE) == "true" && f.label(kubernetes.LabelPlatform) == "se" && f.label(kubernetes.LabelVersion) == "v1.2" &&
			f.label(one) == "true" && f.label(old) == "" && f.label("kubernetes.io/arch") == "s390x"
	})
	k.Next(4, 0)

	h.change(func() { h.info.HostKeyHashes = append(h.info.HostKeyHashes, strings.Repeat("01", 32)) })
	eventually(t, "a key that was added", func() bool { return f.label(old) == "true" })

	// A label that somebody takes away comes back.
	f.mu.Lock()
	delete(f.labels, kubernetes.LabelSE)
	f.mu.Unlock()
	eventually(t, "a label that was taken away", func() bool { return f.label(kubernetes.LabelSE) == "true" })

	// Guests that are not containerd's take places.
	h.change(func() {
		h.guests = []*hostagentv1.Guest{{Name: "web", State: "ready"}, {Name: "old", State: "stopped"}, {Name: guestName, State: "ready"}}
	})
	k.Next(3, 0)

	h.change(func() { h.info.Problem = "no /dev/kvm: load the kernel module kvm" })
	k.Next(0, 3)
	eventually(t, "a problem", func() bool {
		return f.label(kubernetes.LabelSE)+f.label(kubernetes.LabelPlatform) == "" && f.label(one) == "true"
	})
	if _, err := k.Allocate("guest-0"); err == nil || !strings.Contains(err.Error(), "load the kernel module kvm") {
		t.Errorf("allocated all the same: %v", err)
	}
	h.change(func() { h.info.Problem = "" })
	k.Next(3, 0)
	eventually(t, "the problem's end", func() bool { return f.label(kubernetes.LabelSE) == "true" })

	h.stop()
	k.Next(0, 3)
	eventually(t, "a hostagent that is gone", func() bool { return f.label(kubernetes.LabelSE) == "" })
	h.start(t)
	k.Next(3, 0)
	eventually(t, "a hostagent that is back", func() bool { return f.label(kubernetes.LabelSE) == "true" })

	// An agent with nothing to change changes nothing.
	f.mu.Lock()
	before, labels := f.patches, maps.Clone(f.labels)
	f.mu.Unlock()
	k.Stop()
	k = kubelettest.Start(t, dir) // a restart of kubelet takes longer than some looks
	k.Next(3, 0)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.patches != before || !maps.Equal(labels, f.labels) {
		t.Errorf("%d patches more, labels %v", f.patches-before, f.labels)
	}
}

// A token that kubelet renewed is used, and an API server that refuses is asked
// again.
func TestServerComesBack(t *testing.T) {
	t.Parallel()
	h, f, s, _, dir := setUp(t)
	f.refuse = http.StatusServiceUnavailable
	start(t, h, s, dir, nil)
	eventually(t, "a refusal", func() bool { return f.label(kubernetes.LabelSE) == "" })
	f.mu.Lock()
	f.refuse, f.bearer = 0, "second"
	f.mu.Unlock()
	if err := os.WriteFile(f.token, []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "labels", func() bool { return f.label(kubernetes.LabelSE) == "true" })
}

// A pod becomes ready by its guest's report, and is no more when the guest is
// another one or not well.
func TestPodBecomesReadyByItsReport(t *testing.T) {
	t.Parallel()
	h, f, s, _, dir := setUp(t)
	web := newPod("web", "", map[string]string{kubernetes.AnnotationIdentity: h.identity(), kubernetes.AnnotationImageID: hex.EncodeToString(h.imageID)})
	web.Status.ContainerStatuses = nil
	other := newPod("other", "containerd://"+guestID, nil)
	other.Spec.ReadinessGates = nil
	f.pods["shop/web"], f.pods["shop/other"] = web, other
	start(t, h, s, dir, nil)
	is := func(status, reason string) func() bool {
		return func() bool {
			c := f.condition("shop/web")
			return c.Status == status && c.Reason == reason && c.LastTransitionTime != ""
		}
	}
	eventually(t, "no container", is("False", reasonNotStarted))
	f.mu.Lock()
	web.Status.ContainerStatuses = newPod("", "containerd://"+guestID, nil).Status.ContainerStatuses
	f.mu.Unlock()
	eventually(t, "no guest", is("False", reasonNoGuest))
	guest := &hostagentv1.Guest{Name: guestName, State: "starting", StartedUnixMs: 1, Identity: h.identity()}
	h.change(func() { h.guests = []*hostagentv1.Guest{guest} })
	eventually(t, "starts", is("False", reasonNotReady))
	if c := f.condition("shop/web"); !strings.Contains(c.Message, "is starting") {
		t.Errorf("%q", c.Message)
	}
	h.change(func() { guest.State = "ready" })
	eventually(t, "ready", is("True", reasonVerified))
	if c := f.condition("shop/web"); !strings.Contains(c.Message, "the key that the pod's annotation names") {
		t.Errorf("%q", c.Message)
	}
	h.change(func() { guest.Unhealthy = true })
	eventually(t, "unhealthy", is("False", reasonUnhealthy))
	h.change(func() { guest.Unhealthy = false })
	eventually(t, "well again", is("True", reasonVerified))

	// Started again, and another image: what was verified is over.
	h.change(func() { guest.StartedUnixMs, h.imageID[0] = 2, 1 })
	eventually(t, "another image", is("False", reasonNotVerified))
	if c := f.condition("shop/web"); !strings.Contains(c.Message, "it runs image 01") {
		t.Errorf("%q", c.Message)
	}
	h.change(func() {
		guest.State, guest.Failure = "failed", &hostagentv1.Failure{Code: "G113", Message: "the boot took too long", Remedy: "give it more CPU"}
	})
	eventually(t, "failed", is("False", reasonNotReady))
	if c := f.condition("shop/web"); !strings.Contains(c.Message, "G113: the boot took too long: give it more CPU") {
		t.Errorf("%q", c.Message)
	}
	if c := f.condition("shop/other"); c.Status != "" {
		t.Errorf("a pod without the gate has %v", c)
	}
}

// Metrics are what was found.
func TestMetrics(t *testing.T) {
	t.Parallel()
	h, f, s, _, dir := setUp(t)
	f.pods["shop/web"], f.pods["shop/last"] = newPod("web", "containerd://"+guestID, nil), newPod("last", "", nil)
	h.guests = []*hostagentv1.Guest{{Name: guestName, State: "ready", StartedUnixMs: 1, Identity: h.identity()}}
	registry := new(metrics.Registry)
	start(t, h, s, dir, func(a *Agent) { a.Measure(registry) })
	has := func(lines ...string) func() bool {
		return func() bool {
			text := string(registry.Text())
			return !slices.ContainsFunc(lines, func(line string) bool { return !strings.Contains(text, "\nsecexec_kubernetes_"+line) })
		}
	}
	eventually(t, "all well", has("hostagent_answers 1", "kubelet_attached 1", "usable 1", "places 4", `pods{verified="true"} 1`, `pods{verified="false"} 1`))
	h.stop()
	eventually(t, "no hostagent", has("hostagent_answers 0", "usable 0", "places 4", `errors_total{action="ask hostagent"} `))
	page, err := os.ReadFile("../../docs/node-agent.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range registry.Descs() {
		if !strings.Contains(string(page), "`"+d.Name+"`") {
			t.Errorf("docs/node-agent.md does not name %s", d.Name)
		}
	}
}

// A guest is asked once for each of its starts, not at each look.
func TestGuestIsAskedOnce(t *testing.T) {
	t.Parallel()
	h, f, s, _, dir := setUp(t)
	f.pods["shop/web"] = newPod("web", "containerd://"+guestID, nil)
	h.guests = []*hostagentv1.Guest{{Name: guestName, State: "ready", StartedUnixMs: 1, Identity: h.identity()}}
	start(t, h, s, dir, nil)
	eventually(t, "ready", func() bool { return f.condition("shop/web").Status == "True" })
	f.mu.Lock()
	patches := f.patches
	f.mu.Unlock()
	// Twenty looks later.
	f.mu.Lock()
	f.pods["shop/last"] = newPod("last", "", nil)
	f.mu.Unlock()
	h.change(func() {})
	eventually(t, "another pod's", func() bool { return f.condition("shop/last").Reason == reasonNotStarted })
	h.mu.Lock()
	defer h.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if h.challenges != 1 || f.patches != patches+1 {
		t.Errorf("%d challenges, %d patches", h.challenges, f.patches-patches)
	}
}

func TestServerAddresses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url, token string
		ok         bool
	}{
		{"https://10.0.0.1:443", "t", true}, {"https://[::1]:6443/", "t", true}, {"http://127.0.0.1:8001", "", true},
		{"http://10.0.0.1", "t", false}, {"10.0.0.1:443", "", false}, {"ftp://x", "", false}, {"https://", "", false}, {"https://u:p@x", "", false}, {"https://x/api", "", false},
	} {
		if err := (&Server{URL: c.url, TokenFile: c.token}).Check(); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrServer) {
			t.Errorf("%s: %v", c.url, err)
		}
	}
}
