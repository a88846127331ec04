package kube

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Three machines with node agents: what the cluster knows of them is true from
// their start on, through whatever happens to them, and a pod becomes ready by a
// real guest's report and not without it.
func TestAgents(t *testing.T) {
	c := newCluster(t)
	s := &site{fleet: follow(t, c)}
	account := c.install(t, "emulated")
	var documents, hosts []string
	for i := range 4 {
		hosts = append(hosts, emulatedHost(t, name("host", i)))
		documents = append(documents, filepath.Join(hosts[i], "host.crt"))
	}
	s.owner, s.spare = newOwner(t, documents), hosts[3]
	for i := range 3 {
		s.machines = append(s.machines, newMachine(t, c, name("machine", i), hosts[i], int64(i+2), account))
	}
	for i, m := range s.machines {
		m.wantNode(t, m.places, s.key(i), platformLabel)
	}
	s.scheduler = c.scheduler(t)

	// hostagent of the last machine goes. When the agent's patience with it is at
	// its end no guest can start there: the last step looks.
	s.machines[2].hostagent.kill()
	for _, step := range []struct {
		name string
		run  func(*site, *testing.T)
	}{
		{"guest is placed, runs and is verified", (*site).verified},
		{"machine gets another host key", (*site).anotherKey},
		{"kubelet starts again", (*site).kubeletAgain},
		{"agent crashes and comes back", (*site).agentAgain},
		{"somebody changes the labels", (*site).mislabelled},
		{"agent is told to end", (*site).agentEnds},
		{"hostagent is away", (*site).hostagentAway},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(s, t) }) {
			return // each goes on where the one before it ended
		}
	}
	for _, m := range s.machines {
		if said := tail(m.agent.log, 1000); strings.Contains(said, "forbidden") {
			t.Errorf("the API server refused something to the agent of %s:\n%s", m.name, said)
		}
	}
}

// site is machines, and an owner who seals for them.
type site struct {
	*fleet
	owner     *owner
	machines  []*machine
	spare     string // an emulated host's folder, with the owner's last key
	scheduler *process
}

const platformLabel = labelPlatform + "=emulated"

// key is the label of an owner's host key, with its value.
func (s *site) key(i int) string { return s.owner.keys[i].label() + "=true" }

// pod is a bundle's, with key slots for these of the owner's keys.
func (s *site) pod(t *testing.T, keys ...int) *corev1.Pod {
	t.Helper()
	pod := podOf(t, objects(t, s.owner.manifest(t, keys, "--platform", "emulated")))
	t.Cleanup(func() {
		none := int64(0)
		_ = s.client.CoreV1().Pods("default").Delete(context.Background(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &none}) // the cluster goes too
	})
	return pod
}

func (s *site) verified(t *testing.T) {
	m, o := s.machines[1], s.owner
	pod := s.pod(t, 1, 3)
	bound, _ := s.place(t, []*corev1.Pod{pod}, s.scheduler)
	if len(bound) != 1 || bound[0].Spec.NodeName != m.name {
		t.Fatalf("pod is on %v", bound)
	}
	if err := m.kubelet.allocate(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.wantCondition(t, pod.Name, corev1.ConditionFalse, "ContainerNotStarted", "")
	// What containerd and its shim do from here on.
	id := strings.Repeat("0123456789abcdef", 4)
	guest := "c-" + id[:40] + "-0123456789"
	m.started(t, pod.Name, id)
	m.wantCondition(t, pod.Name, corev1.ConditionFalse, "NoGuest", "")
	run(t, o.secexec, "run", o.bundle(), "--name", guest, "--socket", m.socket(), "--timeout", patience.String())
	m.wantCondition(t, pod.Name, corev1.ConditionTrue, "ReportVerified", guest)
	run(t, o.secexec, "kill", guest, "--socket", m.socket())
	m.wantCondition(t, pod.Name, corev1.ConditionFalse, "GuestNotReady", guest)

	// Another image in the guest's place is not what the pod asked for.
	o.build(t, o.keys[1].document)
	run(t, o.secexec, "rm", guest, "--socket", m.socket())
	run(t, o.secexec, "run", o.bundle(), "--name", guest, "--socket", m.socket(), "--timeout", patience.String())
	m.wantCondition(t, pod.Name, corev1.ConditionFalse, "ReportNotVerified", guest)
	run(t, o.secexec, "kill", guest, "--socket", m.socket())
}

func (s *site) anotherKey(t *testing.T) {
	m := s.machines[0]
	m.hostagent.stop()
	m.host = s.spare
	m.startHostagent()
	m.wantNode(t, m.places, s.key(3), platformLabel)
}

func (s *site) kubeletAgain(t *testing.T) {
	m := s.machines[0]
	m.kubelet.stop(t)
	m.kubelet = newKubelet(m.t, m.plugins())
	m.wantNode(t, m.places, s.key(3), platformLabel)
}

func (s *site) agentAgain(t *testing.T) {
	m := s.machines[0]
	m.agent.kill()
	m.wantNode(t, 0, s.key(3), platformLabel) // kubelet notices; labels stay
	m.startAgent()
	m.wantNode(t, m.places, s.key(3), platformLabel)
}

func (s *site) mislabelled(t *testing.T) {
	m := s.machines[0]
	s.label(t, m.name, labelSE, "true")
	s.label(t, m.name, s.owner.keys[1].label(), "true")
	s.label(t, m.name, s.owner.keys[3].label(), "")
	m.wantNode(t, m.places, s.key(3), platformLabel)
}

func (s *site) agentEnds(t *testing.T) {
	m := s.machines[0]
	m.agent.stop()
	if code := m.agent.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("it ended with %d: %s", code, tail(m.agent.log, 5))
	}
	m.wantNode(t, 0, s.key(3), platformLabel)
}

func (s *site) hostagentAway(t *testing.T) {
	m := s.machines[2]
	m.wantNode(t, 0, s.key(2))
	pod := s.pod(t, 2)
	s.wantPending(t, pod, s.scheduler, "0/3 nodes are available")
	m.startHostagent()
	m.wantNode(t, m.places, s.key(2), platformLabel)
	if on := s.wantNode(t, pod.Name, s.scheduler); on != m.name {
		t.Errorf("pod is on %s", on)
	}
}

// started shows a pod's container as kubelet does once it has one.
func (m *machine) started(t *testing.T, pod, id string) {
	t.Helper()
	pods := m.client.CoreV1().Pods("default")
	now, err := pods.Get(t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now.Status.Phase = corev1.PodRunning
	now.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: now.Spec.Containers[0].Name, ContainerID: "containerd://" + id, Image: now.Spec.Containers[0].Image, ImageID: "sha256:0",
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
	}}
	if _, err := pods.UpdateStatus(t.Context(), now, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// wantCondition waits for the condition behind a pod's readiness gate.
func (m *machine) wantCondition(t *testing.T, pod string, status corev1.ConditionStatus, reason, says string) {
	t.Helper()
	eventually(t, fmt.Sprintf("pod %s: verified is %s, %s", pod, status, reason), func(ctx context.Context) error {
		now, err := m.client.CoreV1().Pods("default").Get(ctx, pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range now.Status.Conditions {
			if c.Type != conditionVerified {
				continue
			}
			if c.Status == status && c.Reason == reason && strings.Contains(c.Message, says) {
				return nil
			}
			return fmt.Errorf("it is %s, %s: %s", c.Status, c.Reason, c.Message)
		}
		return fmt.Errorf("no such condition")
	}, m.agent, m.hostagent)
}
