package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// The names of docs/kubernetes.md, told once more: a change of one is a change
// for every cluster, and is noticed here.
const (
	labelSE       = "secexec.dev/se"
	labelPlatform = "secexec.dev/platform"
	labelHostKey  = "secexec.dev/hostkey-"
	resourceGuest = corev1.ResourceName("secexec.dev/guest")

	conditionVerified = corev1.PodConditionType("secexec.dev/verified")
)

// The fleet.
const (
	fleetNodes = 1000
	fleetKeys  = 200 // that nodes have
	absentKeys = 4   // more, which no node has
	fullKeys   = 4   // the first ones, whose nodes are all full
	plainEvery = 11  // node has no Secure Execution
	perNode    = 4   // guests
	slotsMost  = 95  // of an image
)

func name(of string, i int) string { return fmt.Sprintf("%s-%04d", of, i) }

// newNode is a node as kubelet and the node agent show it.
func newNode(name string, guests int, keys ...hostKey) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		corev1.LabelHostname: name, corev1.LabelArchStable: "s390x", corev1.LabelOSStable: "linux",
	}}}
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	if len(keys) > 0 {
		node.Labels[labelSE], node.Labels[labelPlatform] = "true", "se"
		for _, key := range keys {
			node.Labels[key.label()] = "true"
		}
		capacity[resourceGuest] = *resource.NewQuantity(int64(guests), resource.DecimalSI)
	}
	node.Status = corev1.NodeStatus{
		Capacity: capacity, Allocatable: capacity,
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}
	return node
}

// fleet is the nodes that the tests place pods on.
type fleet struct {
	*cluster
	keys     []hostKey
	nodes    map[string]*corev1.Node
	informer cache.SharedIndexInformer // of pods: to ask the server again and again would be most of its work
	pods     corelisters.PodLister     // what informer knows
}

// follow returns a fleet without nodes.
func follow(t *testing.T, c *cluster) *fleet {
	t.Helper()
	factory := informers.NewSharedInformerFactory(c.client, 0)
	pods := factory.Core().V1().Pods()
	f := &fleet{cluster: c, nodes: make(map[string]*corev1.Node), informer: pods.Informer(), pods: pods.Lister()}
	ctx, cancel := context.WithCancel(context.Background()) // t.Context would end before the test's cleanup
	factory.StartWithContext(ctx)
	t.Cleanup(func() {
		cancel()
		factory.Shutdown()
	})
	eventually(t, "pods are followed", func(context.Context) error {
		if !f.informer.HasSynced() {
			return errors.New("not yet")
		}
		return nil
	}, c.api)
	return f
}

// newFleet makes the nodes. Each key but the last few is that of four nodes or
// more; every seventh node has a second one, as a machine with a backup key.
func newFleet(t *testing.T, c *cluster, keys []hostKey) *fleet {
	t.Helper()
	f := follow(t, c)
	f.keys = keys
	for i := range fleetNodes {
		var node *corev1.Node
		first, second := i%fleetKeys, (i+1)%fleetKeys
		switch {
		case i%plainEvery == plainEvery-1 && first >= fullKeys:
			node = newNode(name("plain", i), 0)
		case first < fullKeys:
			node = newNode(name("full", i), 0, keys[first])
		case i%7 == 0 && second >= fullKeys:
			node = newNode(name("node", i), perNode, keys[first], keys[second])
		default:
			node = newNode(name("node", i), perNode, keys[first])
		}
		f.nodes[node.Name] = node
	}
	for i, key := range keys {
		if n := len(f.withKey(key)); (i < fleetKeys) != (n >= 4) {
			t.Fatalf("key %d is on %d nodes", i, n)
		}
	}
	each(t, slices.Collect(maps.Values(f.nodes)), func(ctx context.Context, node *corev1.Node) error {
		_, err := c.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		return err
	})
	return f
}

// each calls do for all of them, some at a time.
func each[T any](t *testing.T, all []T, do func(context.Context, T) error) {
	t.Helper()
	work := make(chan T)
	var wait sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	for range 8 {
		wait.Go(func() {
			for v := range work {
				if err := do(t.Context(), v); err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, v := range all {
		work <- v
	}
	close(work)
	wait.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
}

// post creates a pod.
func (f *fleet) post(ctx context.Context, pod *corev1.Pod) error {
	_, err := f.client.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
	return err
}

// place creates pods and returns what became of them.
func (f *fleet) place(t *testing.T, pods []*corev1.Pod, scheduler *process) (bound, pending []*corev1.Pod) {
	t.Helper()
	each(t, pods, f.post)
	return f.judged(t, pods, scheduler)
}

// judged waits until the scheduler has tried all of these pods, and returns those
// that have a node and those that have none.
func (f *fleet) judged(t *testing.T, pods []*corev1.Pod, scheduler *process) (bound, pending []*corev1.Pod) {
	t.Helper()
	eventually(t, fmt.Sprintf("the scheduler judged %d pods", len(pods)), func(context.Context) error {
		bound, pending = nil, nil
		for _, pod := range pods {
			now, err := f.pods.Pods("default").Get(pod.Name)
			switch {
			case err != nil:
				return err
			case now.Spec.NodeName != "":
				bound = append(bound, now)
			case unschedulable(now) != "":
				pending = append(pending, now)
			}
		}
		if missing := len(pods) - len(bound) - len(pending); missing > 0 {
			return fmt.Errorf("%d pods not judged yet", missing)
		}
		return nil
	}, scheduler, f.api)
	return bound, pending
}

// unschedulable is what the scheduler says of a pod that it found no node for.
func unschedulable(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return c.Message
		}
	}
	return ""
}

// wantPending checks that a pod has no node, and that condition and event say why.
func (f *fleet) wantPending(t *testing.T, pod *corev1.Pod, scheduler *process, why ...string) string {
	t.Helper()
	bound, pending := f.place(t, []*corev1.Pod{pod}, scheduler)
	if len(bound) > 0 {
		t.Fatalf("pod %s is on %s", pod.Name, bound[0].Spec.NodeName)
	}
	said := unschedulable(pending[0])
	for _, w := range why {
		if !strings.Contains(said, w) {
			t.Errorf("pod %s: %q does not say %q", pod.Name, said, w)
		}
	}
	eventually(t, "an event says so", func(ctx context.Context) error {
		events, err := f.client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod.Name})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "FailedScheduling" && e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, why[0]) {
				return nil
			}
		}
		return fmt.Errorf("%d events, none is FailedScheduling with %q", len(events.Items), why[0])
	}, scheduler, f.api)
	return said
}

// wantNode waits until a pod has a node, and returns its name.
func (f *fleet) wantNode(t *testing.T, pod string, scheduler *process) string {
	t.Helper()
	var node string
	eventually(t, "pod "+pod+" gets a node", func(ctx context.Context) error {
		now, err := f.client.CoreV1().Pods("default").Get(ctx, pod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if node = now.Spec.NodeName; node == "" {
			return fmt.Errorf("pending: %s", unschedulable(now))
		}
		return nil
	}, scheduler, f.api)
	return node
}

// remove takes pods away at once: there is no kubelet that would confirm it.
func (f *fleet) remove(t *testing.T, pods []*corev1.Pod) {
	t.Helper()
	each(t, pods, func(ctx context.Context, pod *corev1.Pod) error {
		return f.client.CoreV1().Pods("default").Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
	})
	eventually(t, "the pods have gone", func(context.Context) error {
		for _, pod := range pods {
			if _, err := f.pods.Pods("default").Get(pod.Name); !apierrors.IsNotFound(err) {
				return fmt.Errorf("pod %s: %v", pod.Name, err)
			}
		}
		return nil
	}, f.api)
}

// label changes a label of a node as the node agent does; "" takes it away.
func (c *cluster) label(t *testing.T, node, key, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, key, value)
	if value == "" {
		patch = fmt.Sprintf(`{"metadata":{"labels":{%q:null}}}`, key)
	}
	if _, err := c.client.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// audit checks the whole fleet: each pod with a sealed guest is on a node that
// has Secure Execution and one of its keys, and no node has more guests than it
// has places, or more memory, with what the runtime class adds, than it offers.
func (f *fleet) audit(t *testing.T, slots map[string][]hostKey) {
	t.Helper()
	list, err := f.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	guests := make(map[string]int64)
	memory := make(map[string]int64)
	for _, pod := range list.Items {
		keys, sealed := slots[pod.Labels["slots"]]
		if pod.Spec.NodeName == "" || !sealed {
			continue
		}
		node := f.nodes[pod.Spec.NodeName]
		if node == nil || node.Labels[labelSE] != "true" ||
			!slices.ContainsFunc(keys, func(k hostKey) bool { return node.Labels[k.label()] == "true" }) {
			t.Errorf("pod %s with %d key slots is on %s, where it can't start: %v", pod.Name, len(keys), pod.Spec.NodeName, node)
		}
		guests[pod.Spec.NodeName] += quantity(&pod, resourceGuest)
		memory[pod.Spec.NodeName] += quantity(&pod, corev1.ResourceMemory)
	}
	for on, n := range guests {
		if most := f.nodes[on].Status.Allocatable[resourceGuest]; n > most.Value() {
			t.Errorf("%d guests on %s, which has places for %d", n, on, most.Value())
		}
		if most := f.nodes[on].Status.Allocatable[corev1.ResourceMemory]; memory[on] > most.Value() {
			t.Errorf("%d bytes asked of %s, which has %d", memory[on], on, most.Value())
		}
	}
}

// quantity is what a pod asks of its node, with its runtime class's overhead.
func quantity(pod *corev1.Pod, of corev1.ResourceName) int64 {
	sum := pod.Spec.Overhead[of]
	for _, container := range pod.Spec.Containers {
		sum.Add(container.Resources.Requests[of])
	}
	return sum.Value()
}

// watchBinds notes when pods get nodes from now on. The result waits until so
// many did, and returns the time from the first to the last.
func (f *fleet) watchBinds(t *testing.T) func(pods int) time.Duration {
	t.Helper()
	var mu sync.Mutex
	var first, last time.Time
	seen := 0
	handler, err := f.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(before, now any) {
		if before.(*corev1.Pod).Spec.NodeName != "" || now.(*corev1.Pod).Spec.NodeName == "" {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if last = time.Now(); seen == 0 {
			first = last
		}
		seen++
	}})
	if err != nil {
		t.Fatal(err)
	}
	return func(pods int) time.Duration {
		eventually(t, fmt.Sprintf("%d pods are seen to get nodes", pods), func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if seen < pods {
				return fmt.Errorf("%d did", seen)
			}
			return nil
		}, f.api)
		if err := f.informer.RemoveEventHandler(handler); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		return last.Sub(first)
	}
}
