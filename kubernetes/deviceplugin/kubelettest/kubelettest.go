// Package kubelettest plays kubelet's device manager in tests, with the code that
// kubelet has: grpc-go and Kubernetes' own messages.
package kubelettest

import (
	"context"
	"errors"
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

// Kubelet knows the devices of one plugin.
type Kubelet struct {
	v1beta1.UnimplementedRegistrationServer
	t      *testing.T
	dir    string
	server *grpc.Server
	served chan struct{}
	lists  chan []*v1beta1.Device // each list that came

	mu       sync.Mutex
	refuse   error
	conns    []*grpc.ClientConn
	requests []*v1beta1.RegisterRequest
	plugin   v1beta1.DevicePluginClient
}

// Start begins as kubelet does: it removes what lies in its folder. It ends with
// the test, unless it is stopped before.
func Start(t *testing.T, dir string) *Kubelet {
	t.Helper()
	old, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", filepath.Join(dir, "kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	k := &Kubelet{t: t, dir: dir, server: grpc.NewServer(), served: make(chan struct{}), lists: make(chan []*v1beta1.Device, 100)}
	v1beta1.RegisterRegistrationServer(k.server, k)
	go func() {
		defer close(k.served)
		_ = k.server.Serve(l)
	}()
	t.Cleanup(k.Stop)
	return k
}

// Stop ends it as a signal would: connections are cut.
func (k *Kubelet) Stop() {
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
func (k *Kubelet) Register(ctx context.Context, r *v1beta1.RegisterRequest) (*v1beta1.Empty, error) {
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

// Refuse answers registrations with an error, nil: no more.
func (k *Kubelet) Refuse(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuse = err
}

// Registrations are those that came.
func (k *Kubelet) Registrations() []*v1beta1.RegisterRequest {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.requests
}

// Next waits for the next list that has so many healthy devices and others.
func (k *Kubelet) Next(healthy, others int) []*v1beta1.Device {
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

// Plugin is the plugin that registered last.
func (k *Kubelet) Plugin() v1beta1.DevicePluginClient {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.plugin
}

// Allocate asks for devices for one container.
func (k *Kubelet) Allocate(ids ...string) (*v1beta1.AllocateResponse, error) {
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	return k.Plugin().Allocate(ctx, &v1beta1.AllocateRequest{ContainerRequests: []*v1beta1.ContainerAllocateRequest{{DevicesIds: ids}}})
}
