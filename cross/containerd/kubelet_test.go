package containerd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/secexec/secexec/rootdisk/oci"
	"github.com/secexec/secexec/rootdisk/oci/ocitest"
)

// criConfig makes containerd's CRI plugin run all pods by our runtime, with a
// network of its own.
const criConfig = `
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "secexec.test/pause:1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "DIR/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "secexec"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.secexec]
      runtime_type = "io.containerd.secexec.v2"
      privileged_without_host_devices = true
`

const cniConfig = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "10.171.83.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
]}
`

// noPods says why pods can't have networks here.
var noPods = sync.OnceValue(func() string {
	for _, plugin := range []string{"ptp", "host-local", "loopback"} {
		if _, err := os.Stat("/usr/lib/cni/" + plugin); err != nil {
			return "no CNI plugins in /usr/lib/cni: run cross/setup.sh"
		}
	}
	for _, args := range []string{"link add secexec-probe0 type veth peer name secexec-probe1", "link delete secexec-probe0", "tuntap add secexec-probe2 mode tap", "link delete secexec-probe2"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Sprintf("pods can't have networks here: ip %s: %v: %s", args, err, out)
		}
	}
	return ""
})

// kubelet asks containerd's CRI plugin what kubelet asks, with what kubelet adds
// to every pod.
type kubelet struct {
	*engine
	ctx   context.Context
	call  cri.RuntimeServiceClient
	count int // of pods
}

func newKubelet(t *testing.T, bundles ...string) *kubelet {
	t.Helper()
	need(t)
	if why := noPods(); why != "" {
		t.Skip(why)
	}
	e := newEngineWith(t, criConfig, map[string]string{"cni/10-pods.conflist": cniConfig}, "-n", "k8s.io")
	for _, b := range bundles {
		path, _ := image(t, b)
		e.ctr("images", "import", "--snapshotter", "native", path)
	}
	pause := filepath.Join(t.TempDir(), "pause.tar")
	archive := ocitest.DockerArchive(t, ocitest.Image{
		Architecture: runtime.GOARCH, Config: oci.Config{Entrypoint: []string{"/pause"}}, Layers: [][]byte{ocitest.TarOf(t, filepath.Join(lab.dir, "host/ca"))},
	}, "secexec.test/pause:1")
	if err := os.WriteFile(pause, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	e.ctr("images", "import", "--snapshotter", "native", pause)
	conn, err := grpc.NewClient("unix://"+e.path("c.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	k := &kubelet{engine: e, ctx: ctx, call: cri.NewRuntimeServiceClient(conn)}
	e.until("the CRI plugin is ready", func() bool {
		r, err := k.call.Status(ctx, &cri.StatusRequest{})
		if err != nil {
			return false
		}
		for _, c := range r.Status.Conditions {
			if !c.Status && (c.Type == "RuntimeReady" || c.Type == "NetworkReady") { // 2.x has more, such as warnings
				return false
			}
		}
		return true
	})
	return k
}

// sandbox is a pod as kubelet describes it.
func (k *kubelet) sandbox() *cri.PodSandboxConfig {
	k.count++
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: fmt.Sprintf("pod%d", k.count), Namespace: "team", Uid: fmt.Sprintf("11111111-2222-3333-4444-%012d", k.count)},
		Hostname: "pod", LogDirectory: k.path("logs"),
		DnsConfig: &cri.DNSConfig{Servers: []string{"10.96.0.10"}},
		Linux: &cri.LinuxPodSandboxConfig{
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: namespaces()},
			Overhead:        &cri.LinuxContainerResources{MemoryLimitInBytes: 128 << 20},
		},
	}
}

func namespaces() *cri.NamespaceOption {
	return &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD}
}

// container is the container of a pod as kubelet describes it.
func (k *kubelet) container(bundle string) *cri.ContainerConfig {
	k.t.Helper()
	own := k.path("kubelet/pods/11111111-2222-3333-4444-555555555555/")
	c := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "main"},
		Image:    &cri.ImageSpec{Image: "secexec.test/" + bundle + ":latest"},
		Envs: []*cri.KeyValue{
			{Key: "KUBERNETES_SERVICE_HOST", Value: []byte("10.96.0.1")}, {Key: "KUBERNETES_SERVICE_PORT", Value: []byte("443")},
			{Key: "KUBERNETES_PORT_443_TCP", Value: []byte("tcp://10.96.0.1:443")},
		},
		Mounts: []*cri.Mount{
			{ContainerPath: "/etc/hosts", HostPath: own + "/etc-hosts"},
			{ContainerPath: "/dev/termination-log", HostPath: own + "/containers/main/0123abcd"},
			{ContainerPath: "/var/run/secrets/kubernetes.io/serviceaccount", HostPath: own + "/volumes/kubernetes.io~projected/kube-api-access-x1x2x", Readonly: true},
		},
		LogPath: "main.log",
		Linux: &cri.LinuxContainerConfig{
			Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 256 << 20, CpuPeriod: 100000, CpuQuota: 100000, CpuShares: 1024, OomScoreAdj: 936},
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: namespaces(),
				MaskedPaths:      []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
			},
		},
	}
	for _, m := range c.Mounts {
		if err := os.MkdirAll(m.HostPath, 0o755); err != nil {
			k.t.Fatal(err)
		}
	}
	return c
}

// run runs a pod without containers.
func (k *kubelet) run(s *cri.PodSandboxConfig) (id string, err error) {
	r, err := k.call.RunPodSandbox(k.ctx, &cri.RunPodSandboxRequest{Config: s, RuntimeHandler: "secexec"})
	if err == nil {
		k.engine.pods = append(k.engine.pods, "k8s.io/"+r.PodSandboxId)
	}
	return r.GetPodSandboxId(), err
}

// start makes and starts a container.
func (k *kubelet) start(pod string, s *cri.PodSandboxConfig, c *cri.ContainerConfig) (id string, err error) {
	r, err := k.call.CreateContainer(k.ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: s})
	if err == nil {
		_, err = k.call.StartContainer(k.ctx, &cri.StartContainerRequest{ContainerId: r.ContainerId})
	}
	return r.GetContainerId(), err
}

func (k *kubelet) status(id string) *cri.ContainerStatus {
	k.t.Helper()
	r, err := k.call.ContainerStatus(k.ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		k.t.Fatal(err)
	}
	return r.Status
}

// ended waits for a container's end.
func (k *kubelet) ended(id string) *cri.ContainerStatus {
	k.t.Helper()
	k.until("container "+id+" has ended", func() bool { return k.status(id).State == cri.ContainerState_CONTAINER_EXITED })
	return k.status(id)
}

// remove removes a pod, as kubelet does.
func (k *kubelet) remove(pod string) {
	k.t.Helper()
	if _, err := k.call.StopPodSandbox(k.ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		k.t.Error(err)
	}
	if _, err := k.call.RemovePodSandbox(k.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		k.t.Error(err)
	}
}

// logged waits for a line in the container's log, which is in CRI's form.
func (k *kubelet) logged(text string) {
	k.t.Helper()
	k.until(fmt.Sprintf("the log holds %q", text), func() bool {
		b, _ := os.ReadFile(k.path("logs/main.log"))
		for line := range strings.Lines(string(b)) {
			if f := strings.SplitN(line, " ", 4); len(f) == 4 && f[1] == "stdout" && strings.Contains(f[3], text) {
				return true
			}
		}
		return false
	})
}
