package containerd

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A pod's life as kubelet leads it: a sandbox, the sealed guest in it, its log,
// its stop, the same container once more, and nothing left.
func TestPod(t *testing.T) {
	t.Parallel()
	k := newKubelet(t, "wait", "fail")
	s := k.sandbox()
	pod, err := k.run(s)
	if err != nil {
		t.Fatal(err)
	}
	st, err := k.call.PodSandboxStatus(k.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || st.Status.State != cri.PodSandboxState_SANDBOX_READY || !strings.HasPrefix(st.Status.Network.GetIp(), "10.171.83.") {
		t.Fatalf("%v, %v", st, err)
	}
	if guests, err := k.guests(); err != nil || len(guests) > 0 {
		t.Errorf("a sandbox has guests %v, %v", guests, err)
	}
	c := k.container("wait")
	id, err := k.start(pod, s, c)
	if err != nil {
		t.Fatal(err)
	}
	k.logged("guest: waits")
	guests, err := k.guests()
	if err != nil || len(guests) != 1 || guests[0].MemoryMib != 256 || guests[0].Cpus != 1 || guests[0].Resources.GetCpuPercent() != 100 || guests[0].Resources.GetCpuWeight() != 39 {
		t.Errorf("guests %v, %v", guests, err)
	}
	if n := guests[0].Networks; len(n) != 1 || n[0].Kind != "handed" || n[0].Mac == "" {
		t.Errorf("its networks: %v, wants the pod's", n)
	}
	if got := k.status(id); got.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("status %v", got)
	}
	_, err = k.call.ExecSync(k.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: 10})
	if err == nil || !strings.Contains(err.Error(), "a sealed guest runs none for its host") {
		t.Errorf("exec probe: %v", err)
	}
	second := k.container("wait")
	second.Metadata.Name = "second"
	if other, err := k.start(pod, s, second); err == nil || !strings.Contains(err.Error(), "a pod holds one sealed guest") {
		t.Errorf("a second container started: %v", err)
	} else if _, err := k.call.RemoveContainer(k.ctx, &cri.RemoveContainerRequest{ContainerId: other}); err != nil {
		t.Error(err)
	}

	if _, err := k.call.StopContainer(k.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 60}); err != nil {
		t.Error(err)
	}
	if got := k.ended(id); got.ExitCode != 7 {
		t.Errorf("stopped: %v, wants its program's status", got)
	}

	c = k.container("fail")
	c.Metadata.Attempt = 1
	again, err := k.start(pod, s, c)
	if err != nil {
		t.Fatalf("the container once more: %v", err)
	}
	if got := k.ended(again); got.ExitCode != 3 || got.Reason != "Error" {
		t.Errorf("ended by itself: %v", got)
	}
	k.logged("guest: ends by itself")
	for _, id := range []string{id, again} {
		if _, err := k.call.RemoveContainer(k.ctx, &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Error(err)
		}
	}
	k.remove(pod)
	k.clean()
}

// A raw block volume is the guest's disk, by the serial number that the pod gives
// it.
func TestPodVolume(t *testing.T) {
	t.Parallel()
	k := newKubelet(t, "wait")
	s, c := k.sandbox(), k.container("wait")
	device := loop(t)
	c.Devices = []*cri.Device{{ContainerPath: "/dev/data", HostPath: device, Permissions: "r"}}
	pod, err := k.run(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.start(pod, s, c); err != nil {
		t.Fatal(err)
	}
	k.logged("guest: waits")
	guests, err := k.guests()
	var found bool
	for _, g := range guests {
		for _, d := range g.Disks {
			found = found || d.Path == device && d.Serial == "data" && d.ReadOnly
		}
	}
	if !found {
		t.Errorf("guests %v, %v, want a disk %s with the serial number data, read-only", guests, err, device)
	}
	k.remove(pod)
	k.clean()
}

// loop makes a block device of a file.
func loop(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "volume.img")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 1<<20)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no block device can be had here: losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", device, err, out)
		}
	})
	return device
}

// What a sealed guest can't have is refused with its sentence, which is what
// kubectl describe pod shows; and nothing is left of the attempt.
func TestPodRefusals(t *testing.T) {
	t.Parallel()
	k := newKubelet(t, "wait")
	for name, c := range map[string]struct {
		ask  func(s *cri.PodSandboxConfig, c *cri.ContainerConfig)
		want string
	}{
		"hostNetwork": {func(s *cri.PodSandboxConfig, c *cri.ContainerConfig) {
			s.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
		}, "P320: a sealed guest can't use its node's network"},
		"hostPID": {func(s *cri.PodSandboxConfig, c *cri.ContainerConfig) {
			s.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_NODE
		}, "P321: a sealed guest can't see its node's processes"},
		"sysctl": {func(s *cri.PodSandboxConfig, c *cri.ContainerConfig) {
			s.Linux.Sysctls = map[string]string{"net.core.somaxconn": "1024"}
		}, `P316: sysctl "net.core.somaxconn"`},
		"shared processes": {func(s *cri.PodSandboxConfig, c *cri.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
		}, "P323: "},
		"hostPath": {func(s *cri.PodSandboxConfig, c *cri.ContainerConfig) {
			c.Mounts = append(c.Mounts, &cri.Mount{HostPath: k.dir, ContainerPath: "/data"})
		}, "P301: hostPath " + k.dir + ` at "/data": a sealed guest takes no file or folder of its node`},
		"privileged": {func(s *cri.PodSandboxConfig, c *cri.ContainerConfig) {
			s.Linux.SecurityContext.Privileged, c.Linux.SecurityContext.Privileged = true, true
			c.Linux.SecurityContext.MaskedPaths, c.Linux.SecurityContext.ReadonlyPaths = nil, nil
		}, "P310: a sealed guest can't be privileged"},
		"command": {func(s *cri.PodSandboxConfig, c *cri.ContainerConfig) { c.Command = []string{"/bin/sh"} }, `P330: it would run ["/bin/sh"]`},
		"args":    {func(s *cri.PodSandboxConfig, c *cri.ContainerConfig) { c.Args = []string{"-v"} }, `P331: arguments ["-v"]`},
		"env": {func(s *cri.PodSandboxConfig, c *cri.ContainerConfig) {
			c.Envs = append(c.Envs, &cri.KeyValue{Key: "LEVEL", Value: []byte("debug")})
		}, `P332: variable "LEVEL"`},
		"user": {func(s *cri.PodSandboxConfig, c *cri.ContainerConfig) {
			c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1000}
		}, "P313: user 1000"},
	} {
		s, cc := k.sandbox(), k.container("wait")
		c.ask(s, cc)
		pod, err := k.run(s)
		if err == nil {
			_, err = k.start(pod, s, cc)
			k.remove(pod)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || status.Code(err) == codes.DeadlineExceeded {
			t.Errorf("%s: got %v, wants %q", name, err, c.want)
		}
	}
	k.clean()
}
