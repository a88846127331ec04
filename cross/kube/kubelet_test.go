package kube

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"
	devices "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	plugins "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/plugin/v1beta1"
)

// kubelet is what of kubelet a node's devices need: its own server and client of
// device plugins. What it learns it shows to the test, which writes it into the
// Node as kubelet would.
type kubelet struct {
	dir    string
	server plugins.Server

	mu      sync.Mutex
	plugins map[string]plugins.DevicePlugin // by resource
	devices map[string]map[string]bool      // by resource and device: healthy?
	gone    int                             // plugins that went
}

// kubelet's code logs what happens; the tests look at what comes of it.
func init() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) }

// newKubelet starts one on a folder of device plugins, as a kubelet that comes
// (back) does: what lies there is removed.
func newKubelet(t *testing.T, dir string) *kubelet {
	t.Helper()
	k := &kubelet{dir: dir, plugins: make(map[string]plugins.DevicePlugin), devices: make(map[string]map[string]bool)}
	var err error
	if k.server, err = plugins.NewServer(klog.Background(), filepath.Join(dir, "kubelet.sock"), k, k); err != nil {
		t.Fatal(err)
	}
	if err := k.server.Start(klog.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.stop(t) })
	return k
}

func (k *kubelet) stop(t *testing.T) {
	t.Helper()
	if err := k.server.Stop(klog.Background()); err != nil {
		t.Error(err)
	}
}

// CleanupPluginDirectory is plugins.RegistrationHandler's.
func (k *kubelet) CleanupPluginDirectory(_ klog.Logger, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// PluginConnected is plugins.ClientHandler's, as are the next two.
func (k *kubelet) PluginConnected(_ context.Context, resource string, plugin plugins.DevicePlugin) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.plugins[resource] = plugin
	return nil
}

// PluginDisconnected leaves the devices there, but unhealthy: so does kubelet.
func (k *kubelet) PluginDisconnected(_ klog.Logger, resource string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone++
	delete(k.plugins, resource)
	for id := range k.devices[resource] {
		k.devices[resource][id] = false
	}
}

func (k *kubelet) PluginListAndWatchReceiver(_ klog.Logger, resource string, list *devices.ListAndWatchResponse) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.devices[resource] = make(map[string]bool)
	for _, d := range list.Devices {
		k.devices[resource][d.ID] = d.Health == devices.Healthy
	}
}

// guests is how many places for guests there are, and how many can be had.
func (k *kubelet) guests() (capacity, allocatable int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, healthy := range k.devices[string(resourceGuest)] {
		capacity++
		if healthy {
			allocatable++
		}
	}
	return capacity, allocatable
}

// allocate takes a place for a container, as kubelet does before it starts it.
func (k *kubelet) allocate(ctx context.Context) error {
	k.mu.Lock()
	plugin := k.plugins[string(resourceGuest)]
	var id string
	for device, healthy := range k.devices[string(resourceGuest)] {
		if healthy {
			id = device
		}
	}
	k.mu.Unlock()
	if plugin == nil || id == "" {
		return fmt.Errorf("no place for a guest")
	}
	answer, err := plugin.API().Allocate(ctx, &devices.AllocateRequest{
		ContainerRequests: []*devices.ContainerAllocateRequest{{DevicesIds: []string{id}}},
	})
	if err != nil {
		return err
	}
	if len(answer.ContainerResponses) != 1 {
		return fmt.Errorf("%d answers for one container", len(answer.ContainerResponses))
	}
	return nil
}

// guestPlaces is what a node shows of them.
func guestPlaces(node *corev1.Node) (capacity, allocatable int64) {
	of := func(list corev1.ResourceList) int64 {
		q := list[resourceGuest]
		return q.Value()
	}
	return of(node.Status.Capacity), of(node.Status.Allocatable)
}

func count(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }
