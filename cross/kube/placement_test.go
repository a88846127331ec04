package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// class is bundles with equally many key slots, and how many pods each becomes.
type class struct{ slots, bundles, pods int }

var classes = []class{{1, 40, 10}, {3, 20, 20}, {20, 10, 40}, {slotsMost, 4, 100}}

// Pods land where their image can start, by nothing but the scheduler that every
// cluster has: what `secexec kubernetes manifest` prints of real bundles, on
// nodes as the node agent labels them.
func TestFleet(t *testing.T) {
	c := newCluster(t)
	o := newOwner(t, hostKeyDocuments(t, fleetKeys+absentKeys))
	f := newFleet(t, c, o.keys)
	s := &stage{fleet: f, owner: o, slots: make(map[string][]hostKey)}

	// Runtime class and bundles' pods, as `secexec kubernetes manifest` prints them.
	for _, object := range objects(t, o.manifest(t, []int{fullKeys}, "--kind", "runtimeclass")) {
		if object.GetKind() == "RuntimeClass" {
			if _, err := c.create(t.Context(), object, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	random := rand.New(rand.NewPCG(9, 9))
	var all []*corev1.Pod
	for _, class := range classes {
		pods := s.classPods(t, class, random)
		s.measure(t, fmt.Sprint(class.slots), pods)
		all = append(all, pods...)
	}
	s.measure(t, "all of these at once", all)

	// Beside them pods that may go anywhere, to tell what placement costs.
	free := slices.Clone(all)
	for i, pod := range free {
		free[i] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name("free", i)}, Spec: corev1.PodSpec{Containers: pod.Spec.DeepCopy().Containers}}
		for _, list := range []corev1.ResourceList{free[i].Spec.Containers[0].Resources.Limits, free[i].Spec.Containers[0].Resources.Requests} {
			delete(list, resourceGuest)
		}
	}
	s.measure(t, "none: any node will do", free)

	s.scheduler = c.scheduler(t)
	for _, test := range []struct {
		name string
		run  func(*stage, *testing.T)
	}{
		{"keys that no node has", (*stage).nowhere},
		{"nodes without a place", (*stage).full},
		{"places run out", (*stage).runOut},
		{"key revoked", (*stage).revoked},
		{"Secure Execution gone", (*stage).unfit},
		{"overhead is counted", (*stage).overhead},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(s, t) })
	}
	s.write(t)
}

// stage is a fleet with what is placed on it.
type stage struct {
	*fleet
	owner     *owner
	scheduler *process
	slots     map[string][]hostKey // of a bundle, by the value of its pods' label "slots"
	made      int                  // bundles
	figures   []figure
	said      [][2]string // when, and what the scheduler said
}

// pods returns pods of a bundle with key slots for these keys.
func (s *stage) pods(t *testing.T, count int, keys ...int) []*corev1.Pod {
	t.Helper()
	pod := podOf(t, objects(t, s.owner.manifest(t, keys)))
	if terms := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms; len(terms) != len(keys) {
		t.Fatalf("%d terms for %d key slots", len(terms), len(keys))
	}
	bundle := name("bundle", s.made)
	s.made++
	for _, key := range keys {
		s.slots[bundle] = append(s.slots[bundle], s.keys[key])
	}
	var pods []*corev1.Pod
	for i := range count {
		copied := pod.DeepCopy()
		copied.Name, copied.Namespace, copied.GenerateName = fmt.Sprintf("%s-%d", bundle, i), "", ""
		if copied.Labels == nil {
			copied.Labels = make(map[string]string)
		}
		copied.Labels["slots"] = bundle
		pods = append(pods, copied)
	}
	return pods
}

// classPods returns the pods of all bundles of a class, whose keys are drawn from
// those that nodes with places have: none twice while there are others.
func (s *stage) classPods(t *testing.T, c class, random *rand.Rand) []*corev1.Pod {
	t.Helper()
	var pods []*corev1.Pod
	var deck []int
	for range c.bundles {
		if len(deck) < c.slots {
			deck = random.Perm(fleetKeys - fullKeys)
		}
		keys := deck[:c.slots:c.slots]
		deck = deck[c.slots:]
		for i := range keys {
			keys[i] += fullKeys
		}
		pods = append(pods, s.pods(t, c.pods, keys...)...)
	}
	return pods
}

// withKey returns the nodes that have one of these keys and Secure Execution.
func (f *fleet) withKey(keys ...hostKey) []*corev1.Node {
	var nodes []*corev1.Node
	for _, node := range f.nodes {
		if slices.ContainsFunc(keys, func(k hostKey) bool { return node.Labels[k.label()] == "true" }) {
			nodes = append(nodes, node)
		}
	}
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes
}

// places is how many guests nodes have room for together.
func places(nodes []*corev1.Node) int {
	var sum int64
	for _, node := range nodes {
		guests := node.Status.Allocatable[resourceGuest]
		sum += guests.Value()
	}
	return int(sum)
}

// wantFull checks that pods wait only because every node that could start them is
// full: nothing of ours keeps a pod from more nodes than it must.
func (s *stage) wantFull(t *testing.T, pending []*corev1.Pod) {
	t.Helper()
	list, err := s.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	guests := make(map[string]int)
	for _, pod := range list.Items {
		guests[pod.Spec.NodeName]++
	}
	for _, pod := range pending {
		if _, sealed := s.slots[pod.Labels["slots"]]; !sealed {
			t.Errorf("pod %s, which any node may have, waits: %s", pod.Name, unschedulable(pod))
		}
		for _, node := range s.withKey(s.slots[pod.Labels["slots"]]...) {
			if guests[node.Name] < places([]*corev1.Node{node}) {
				t.Errorf("pod %s waits, but %s could start it: %s", pod.Name, node.Name, unschedulable(pod))
			}
		}
	}
}

func (s *stage) nowhere(t *testing.T) {
	const absent = fleetKeys
	pods := s.pods(t, 1, absent, absent+1, absent+2)
	said := s.wantPending(t, pods[0], s.scheduler, fmt.Sprintf("0/%d nodes are available", fleetNodes), "didn't match Pod's node affinity/selector")
	s.say("keys that no node has", said)
	// A machine with such a key joins: the pod goes there.
	node := newNode("joined", 1, s.keys[absent+1])
	s.add(t, node)
	if on := s.wantNode(t, pods[0].Name, s.scheduler); on != node.Name {
		t.Errorf("pod is on %s", on)
	}
	s.audit(t, s.slots)
	s.remove(t, pods)
}

func (s *stage) full(t *testing.T) {
	pods := s.pods(t, 1, 0)
	said := s.wantPending(t, pods[0], s.scheduler, "Insufficient secexec.dev/guest")
	s.say("every node with the key is full", said)
	node := s.withKey(s.keys[0])[0]
	s.offer(t, node, resourceGuest, *resource.NewQuantity(1, resource.DecimalSI))
	if on := s.wantNode(t, pods[0].Name, s.scheduler); on != node.Name {
		t.Errorf("pod is on %s", on)
	}
	s.audit(t, s.slots)
	s.remove(t, pods)
	s.offer(t, node, resourceGuest, *resource.NewQuantity(0, resource.DecimalSI))
}

func (s *stage) runOut(t *testing.T) {
	const key, more = 50, 3
	room := places(s.withKey(s.keys[key]))
	pods := s.pods(t, room+more, key)
	bound, pending := s.place(t, pods, s.scheduler)
	if len(bound) != room || len(pending) != more {
		t.Fatalf("%d pods have a node and %d have none, with %d places", len(bound), len(pending), room)
	}
	for _, pod := range pending {
		if said := unschedulable(pod); !strings.Contains(said, "Insufficient secexec.dev/guest") {
			t.Errorf("pod %s: %q", pod.Name, said)
		}
	}
	s.audit(t, s.slots)
	// A guest ends: one of those that wait takes its place.
	s.remove(t, bound[:1])
	eventually(t, "one of the pods that wait gets the place", func(ctx context.Context) error {
		now := 0
		for _, pod := range pending {
			p, err := s.client.CoreV1().Pods("default").Get(ctx, pod.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if p.Spec.NodeName != "" {
				now++
			}
		}
		if now != 1 {
			return fmt.Errorf("%d of them have a node", now)
		}
		return nil
	}, s.scheduler, s.api)
	s.audit(t, s.slots)
	s.remove(t, append(bound[1:], pending...))
}

func (s *stage) revoked(t *testing.T) {
	const key = 60
	pods := s.pods(t, 2, key)
	bound, _ := s.place(t, pods[:1], s.scheduler)
	if len(bound) != 1 {
		t.Fatal("no node before the key is revoked")
	}
	nodes := s.withKey(s.keys[key])
	for _, node := range nodes {
		s.label(t, node.Name, s.keys[key].label(), "")
	}
	s.wantPending(t, pods[1], s.scheduler, "didn't match Pod's node affinity/selector")
	// What runs goes on: the key was taken from new pods only.
	if on := s.wantNode(t, pods[0].Name, s.scheduler); on != bound[0].Spec.NodeName {
		t.Errorf("pod is on %s", on)
	}
	s.label(t, nodes[0].Name, s.keys[key].label(), "true")
	if on := s.wantNode(t, pods[1].Name, s.scheduler); on != nodes[0].Name {
		t.Errorf("pod is on %s, which has not the key", on)
	}
	for _, node := range nodes[1:] {
		s.label(t, node.Name, s.keys[key].label(), "true")
	}
	s.remove(t, pods)
}

func (s *stage) unfit(t *testing.T) {
	const key = 70
	nodes := s.withKey(s.keys[key])
	for _, node := range nodes {
		s.label(t, node.Name, labelSE, "")
	}
	pods := s.pods(t, 1, key)
	s.wantPending(t, pods[0], s.scheduler, "didn't match Pod's node affinity/selector")
	for _, node := range nodes {
		s.label(t, node.Name, labelSE, "true")
	}
	s.wantNode(t, pods[0].Name, s.scheduler)
	s.audit(t, s.slots)
	s.remove(t, pods)
}

func (s *stage) overhead(t *testing.T) {
	class, err := s.client.NodeV1().RuntimeClasses().Get(t.Context(), "secexec", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if class.Overhead == nil || class.Scheduling == nil {
		t.Fatalf("runtime class without overhead or scheduling: %v", class)
	}
	const key = fleetKeys + absentKeys - 1
	pods := s.pods(t, 1, key)
	made, err := s.client.CoreV1().Pods("default").Create(t.Context(), pods[0], metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		t.Fatal(err)
	}
	extra := class.Overhead.PodFixed[corev1.ResourceMemory]
	if extra.Sign() <= 0 || !extra.Equal(made.Spec.Overhead[corev1.ResourceMemory]) {
		t.Fatalf("overhead of the class is %v, of the pod %v", class.Overhead.PodFixed, made.Spec.Overhead)
	}
	for key, value := range class.Scheduling.NodeSelector {
		if made.Spec.NodeSelector[key] != value {
			t.Errorf("pod's node selector %v lacks the class's %s", made.Spec.NodeSelector, key)
		}
	}
	// One byte less than guest and overhead want is too little.
	node := newNode("tight", 1, s.keys[key])
	wants := quantity(made, corev1.ResourceMemory)
	node.Status.Allocatable = maps.Clone(node.Status.Allocatable)
	node.Status.Allocatable[corev1.ResourceMemory] = *resource.NewQuantity(wants-1, resource.BinarySI)
	s.add(t, node)
	s.wantPending(t, pods[0], s.scheduler, "Insufficient memory")
	s.offer(t, node, corev1.ResourceMemory, *resource.NewQuantity(wants, resource.BinarySI))
	s.wantNode(t, pods[0].Name, s.scheduler)
	s.audit(t, s.slots)
	s.remove(t, pods)
}

// add has a node join the fleet.
func (s *stage) add(t *testing.T, node *corev1.Node) {
	t.Helper()
	if _, err := s.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.nodes[node.Name] = node
	t.Cleanup(func() {
		delete(s.nodes, node.Name)
		_ = s.client.CoreV1().Nodes().Delete(context.Background(), node.Name, metav1.DeleteOptions{}) // the cluster goes too
	})
}

// offer changes what a node offers, as kubelet does.
func (s *stage) offer(t *testing.T, node *corev1.Node, of corev1.ResourceName, amount resource.Quantity) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"status": map[string]any{
		"capacity": map[corev1.ResourceName]resource.Quantity{of: amount}, "allocatable": map[corev1.ResourceName]resource.Quantity{of: amount},
	}})
	if err != nil {
		t.Fatal(err)
	}
	now, err := s.client.CoreV1().Nodes().Patch(t.Context(), node.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	node.Status = now.Status
}
