package containerd

import (
	"io"
	"net"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A pod's address is its sealed guest's: who connects to it reaches the guest,
// which has the pod's name servers. With the pod its network goes.
func TestPodNetwork(t *testing.T) {
	t.Parallel()
	k := newKubelet(t, "serve")
	s := k.sandbox()
	s.DnsConfig.Searches, s.DnsConfig.Options = []string{"team.svc.cluster.local"}, []string{"ndots:5"}
	pod, err := k.run(s)
	if err != nil {
		t.Fatal(err)
	}
	st, err := k.call.PodSandboxStatus(k.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.start(pod, s, k.container("serve")); err != nil {
		t.Fatal(err)
	}
	k.logged("guest: serves")
	c, err := net.DialTimeout("tcp", net.JoinHostPort(st.Status.Network.Ip, "7777"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	got, err := io.ReadAll(c)
	want := st.Status.Network.Ip + ":7777\nnameserver 10.96.0.10\nsearch team.svc.cluster.local\noptions ndots:5\n"
	if err != nil || string(got) != want {
		t.Errorf("the guest says %q, %v; wants %q", got, err, want)
	}
	k.remove(pod)
	k.clean()
}
