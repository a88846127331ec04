package deviceplugin

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// patience bounds every wait: the machine may be slow.
const patience = 60 * time.Second

// kubelet plays kubelet's device manager with the code that kubelet has: grpc-go
// and Kubernetes' own messages.
type kubelet struct {
	v1beta1.UnimplementedRegistrationServer
	t      *testing.T
	dir    string
	server *grpc.Server
	served chan struct{}
	refuse error // what registrations are answered with

	mu       sync.Mutex
	conns    []*grpc.ClientConn
	requests []*v1beta1.RegisterRequest
	lists    chan []*v1beta1.Device // each list that came
	plugin   v1beta1.DevicePluginClient
}

// startKubelet begins as kubelet does: it removes what lies in the folder.
func startKubelet(t *testing.T, dir string) *kubelet {
	t.Helper()
	old, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(dir, "kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{t: t, dir: dir, server: grpc.NewServer(), served: make(chan struct{}), lists: make(chan []*v1beta1.Device, 100)}
	v1beta1.RegisterRegistrationServer(k.server, k)
	go func() {
		defer close(k.served)
		_ = k.server.Serve(l)
	}()
	t.Cleanup(k.stop)
	return k
}

// stop ends it as a signal would: connections are cut.
func (k *kubelet) stop() {
	k.server.Stop()
	<-k.served
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.conns {
		c.Close()
	}
	k.conns = nil
}

// Register connects to the plugin before it answers, as kubelet does.
func (k *kubelet) Register(ctx context.Context, r *v1beta1.RegisterRequest) (*v1beta1.Empty, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.requests = append(k.requests, r)
	if k.refuse != nil {
		return nil, k.refuse
	}
	conn, err := grpc.NewClient("unix://"+filepath.Join(k.dir, r.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	k.conns = append(k.conns, conn)
	k.plugin = v1beta1.NewDevicePluginClient(conn)
	if _, err := k.plugin.GetDevicePluginOptions(ctx, &v1beta1.Empty{}); err != nil {
		return nil, err
	}
	stream, err := k.plugin.ListAndWatch(context.Background(), &v1beta1.Empty{})
	if err != nil {
		return nil, err
	}
	go func() { // ends when the connection is closed
		for {
			answer, err := stream.Recv()
			if err != nil {
				return
			}
			k.lists <- answer.Devices
		}
	}()
	return &v1beta1.Empty{}, nil
}

func (k *kubelet) registrations() []*v1beta1.RegisterRequest {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.requests
}

// next waits for the next list that has so many healthy devices and others.
func (k *kubelet) next(healthy, others int) []*v1beta1.Device {
	k.t.Helper()
	end := time.After(patience)
	for {
		select {
		case list := <-k.lists:
			n := 0
			for _, d := range list {
				if d.Health == v1beta1.Healthy {
					n++
				}
			}
			if n == healthy && len(list)-n == others {
				return list
			}
		case <-end:
			k.t.Fatalf("no list of %d healthy devices and %d others", healthy, others)
		}
	}
}

func (k *kubelet) allocate(t *testing.T, ids ...string) (*v1beta1.AllocateResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	k.mu.Lock()
	plugin := k.plugin
	k.mu.Unlock()
	return plugin.Allocate(ctx, &v1beta1.AllocateRequest{ContainerRequests: []*v1beta1.ContainerAllocateRequest{{DevicesIds: ids}}})
}
