package deviceplugin

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/secexec/secexec/kubernetes/deviceplugin/kubelettest"
)

// shortDir is a folder whose sockets' paths fit in a sockaddr.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "plugin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func devices(healthy bool, ids ...string) (out []Device) {
	for _, id := range ids {
		out = append(out, Device{id, healthy})
	}
	return out
}

// run runs a plugin until the test ends or stop is called.
func run(t *testing.T, dir string) (p *Plugin, stop func()) {
	t.Helper()
	p = New(dir, "secexec.sock", "secexec.dev/guest", slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return p, stop
}

// What kubelet sees while it lives, and after it was started anew.
func TestKubeletKnowsTheDevices(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	p, stop := run(t, dir) // before there is a kubelet
	p.Set(devices(true, "guest-0", "guest-1"), "")
	k := kubelettest.Start(t, dir)
	k.Next(2, 0)
	r := k.Registrations()
	if last := r[len(r)-1]; last.Version != v1beta1.Version || last.Endpoint != "secexec.sock" || last.ResourceName != "secexec.dev/guest" {
		t.Errorf("registered as %v", last)
	}
	p.Set(append(devices(true, "guest-0"), devices(false, "guest-1")...), "no host key")
	k.Next(1, 1)
	p.Set(nil, "")
	k.Next(0, 0)
	p.Set(devices(true, "guest-0", "guest-1", "guest-2"), "")
	k.Next(3, 0)

	for range 2 {
		k.Stop()
		k = kubelettest.Start(t, dir)
		list := k.Next(3, 0)
		if list[2].ID != "guest-2" {
			t.Errorf("%v", list)
		}
		if _, err := k.Allocate("guest-2"); err != nil {
			t.Error(err)
		}
	}
	for end := time.Now().Add(time.Minute); !p.Attached(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not attached")
		}
	}
	stop()
	if p.Attached() {
		t.Error("attached after its end")
	}
	if _, err := os.Stat(filepath.Join(dir, "secexec.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its socket stays: %v", err)
	}
}

// A kubelet that refuses is asked again, by a socket that is there each time.
func TestRegistrationIsTriedAgain(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	k := kubelettest.Start(t, dir)
	k.Refuse(status.Error(codes.InvalidArgument, "the resource's name is taken"))
	p, _ := run(t, dir)
	p.Set(devices(true, "guest-0"), "")
	for end := time.Now().Add(time.Minute); len(k.Registrations()) < 2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not asked again")
		}
	}
	k.Refuse(nil)
	k.Next(1, 0)
}

// What kubelet says of itself when it refuses comes out.
func TestRefusalHasKubeletsWords(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	k := kubelettest.Start(t, dir)
	k.Refuse(status.Error(codes.InvalidArgument, "name is taken: 100 % sure"))
	p := New(dir, "secexec.sock", "secexec.dev/guest", slog.New(slog.DiscardHandler))
	if held, err := p.once(t.Context()); held || err == nil || !strings.Contains(err.Error(), `status "3": name is taken: 100 % sure`) {
		t.Errorf("%v %v", held, err)
	}
	k.Stop()
	if _, err := p.once(t.Context()); err == nil {
		t.Error("registered at nobody")
	}
}

func TestAllocate(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	k := kubelettest.Start(t, dir)
	p, _ := run(t, dir)
	p.Set(append(devices(true, "guest-0", "guest-1"), devices(false, "guest-2")...), "no host key: what to do")
	k.Next(2, 1)
	answer, err := k.Allocate("guest-0", "guest-1")
	if err != nil || len(answer.ContainerResponses) != 1 || len(answer.ContainerResponses[0].Envs)+len(answer.ContainerResponses[0].Mounts) != 0 {
		t.Errorf("%v %v", answer, err)
	}
	if _, err := k.Allocate("guest-9"); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "guest-9") {
		t.Errorf("a device that is not there: %v", err)
	}
	if _, err := k.Allocate("guest-2"); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "no host key: what to do") {
		t.Errorf("one that is not healthy: %v", err)
	}
	if _, err := k.Plugin().PreStartContainer(t.Context(), &v1beta1.PreStartContainerRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a call that is not there: %v", err)
	}
}

// Our bytes are those of Kubernetes' own code.
func TestMessages(t *testing.T) {
	t.Parallel()
	bytesOf := func(m proto.Message) []byte {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		got  []byte
		want proto.Message
	}{
		"register": {registerRequest("a.sock", "b/c"), &v1beta1.RegisterRequest{Version: "v1beta1", Endpoint: "a.sock", ResourceName: "b/c"}},
		"list": {listAndWatchResponse([]Device{{"x", true}, {"y", false}}), &v1beta1.ListAndWatchResponse{Devices: []*v1beta1.Device{
			{ID: "x", Health: v1beta1.Healthy}, {ID: "y", Health: v1beta1.Unhealthy},
		}}},
		"empty list": {listAndWatchResponse(nil), &v1beta1.ListAndWatchResponse{}},
		"allocate":   {allocateResponse(2), &v1beta1.AllocateResponse{ContainerResponses: []*v1beta1.ContainerAllocateResponse{{}, {}}}},
	} {
		if want := bytesOf(c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s: %x, wants %x", name, c.got, want)
		}
	}
	for _, containers := range [][][]string{nil, {{}}, {{"a"}}, {{"a", "b"}, {}, {"c"}}} {
		m := new(v1beta1.AllocateRequest)
		for _, ids := range containers {
			m.ContainerRequests = append(m.ContainerRequests, &v1beta1.ContainerAllocateRequest{DevicesIds: ids})
		}
		got, err := parseAllocateRequest(bytesOf(m))
		if err != nil || !slices.EqualFunc(got, containers, slices.Equal) {
			t.Errorf("%v: %v %v", containers, got, err)
		}
	}
}

func TestFrames(t *testing.T) {
	t.Parallel()
	if got, err := readMessage(bytes.NewReader(frame([]byte("abc")))); err != nil || string(got) != "abc" {
		t.Errorf("%q %v", got, err)
	}
	for name, b := range map[string]string{
		"nothing": "", "cut off": "\x00\x00\x00\x00\x02a", "compressed": "\x01\x00\x00\x00\x00", "too large": "\x00\x00\x10\x00\x01",
		"two": "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "head cut off": "\x00\x00",
	} {
		if _, err := readMessage(strings.NewReader(b)); !errors.Is(err, errMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseAllocateRequest(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x0a\x09\x0a\x07guest-0"))
	f.Add([]byte("\x0a\x04\x0a\x02ab\x12\x01x\x08\x01"))
	f.Add([]byte("\x0a\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseAllocateRequest(b)
		m := new(v1beta1.AllocateRequest)
		theirs := proto.Unmarshal(b, m)
		if err != nil && !errors.Is(err, errMessage) {
			t.Fatal(err)
		}
		if theirs != nil {
			return // they also want UTF-8, and fields beside well formed
		}
		if err != nil {
			t.Fatalf("Kubernetes reads what we don't: %v", err)
		}
		if !slices.EqualFunc(got, m.ContainerRequests, func(ids []string, c *v1beta1.ContainerAllocateRequest) bool { return slices.Equal(ids, c.DevicesIds) }) {
			t.Fatalf("%v, Kubernetes reads %v", got, m)
		}
	})
}
