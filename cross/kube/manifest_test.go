package kube

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// All that we hand to `kubectl apply` is what this API server takes, field by
// field: by a dry run, in which all is judged and nothing kept.
func TestManifests(t *testing.T) {
	c := newCluster(t)
	accepted := func(t *testing.T, all []*unstructured.Unstructured) {
		t.Helper()
		for _, o := range all {
			made, err := c.create(t.Context(), o, true)
			if err != nil {
				t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
			} else if warnings := lost(o.Object, made.Object, ""); len(warnings) > 0 {
				t.Errorf("%s %s: the server keeps no %s", o.GetKind(), o.GetName(), strings.Join(warnings, ", "))
			}
		}
	}
	for _, folder := range []string{"base", "emulated"} {
		t.Run(folder, func(t *testing.T) {
			all := kustomize(t, folder)
			// A dry run keeps nothing, so nothing could go into a namespace.
			for _, o := range all {
				if o.GetKind() == "Namespace" {
					if _, err := c.create(t.Context(), o, false); err != nil && !apierrors.IsAlreadyExists(err) {
						t.Fatal(err)
					}
				}
			}
			accepted(t, without(all, "Namespace"))
		})
	}
	for _, o := range kustomize(t, "base") { // a pod of it is admitted only with its class
		if o.GetKind() == "RuntimeClass" {
			if _, err := c.create(t.Context(), o, false); err != nil {
				t.Fatal(err)
			}
		}
	}

	o := newOwner(t, hostKeyDocuments(t, slotsMost))
	for _, slots := range []int{1, slotsMost} {
		keys := make([]int, slots)
		for i := range keys {
			keys[i] = i
		}
		for _, flags := range []string{
			"",
			"--platform emulated",
			"--name other --namespace default --cpus 4 --memory 2048",
			"--restart Never --disk data=claim --disk more=claim-2",
			"--kind deployment --replicas 3 --namespace default",
			"--kind runtimeclass,deployment --platform emulated --runtime-class other",
		} {
			t.Run(fmt.Sprintf("%d %s", slots, flags), func(t *testing.T) {
				accepted(t, objects(t, o.manifest(t, keys, strings.Fields(flags)...)))
			})
		}
	}
	t.Run("runtime class", func(t *testing.T) {
		for _, platform := range []string{"se", "emulated"} {
			accepted(t, objects(t, o.manifest(t, []int{0}, "--kind", "runtimeclass", "--runtime-class", "other", "--platform", platform)))
		}
	})
	t.Run("namespace that is restricted", func(t *testing.T) {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "restricted", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}}
		if _, err := c.client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.serviceAccount(t, namespace.Name, "default")
		pods := objects(t, o.manifest(t, []int{0}, "--namespace", namespace.Name, "--disk", "data=claim"))
		accepted(t, pods)
		for _, pod := range pods { // premise
			if err := unstructured.SetNestedField(pod.Object, true, "spec", "hostNetwork"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.create(t.Context(), pod, true); err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
				t.Errorf("with the host's network: %v", err)
			}
		}
	})
	t.Run("premise: what is wrong is refused", func(t *testing.T) {
		for _, c2 := range []struct {
			old, new, says string
		}{
			{"  readinessGates:", "  readinessGate:", `unknown field "spec.readinessGate"`},
			{"runtimeClassName: secexec", "runtimeClassName: another", `RuntimeClass "another" not found`},
			{"operator: In", "operator: Is", `"Is": not a valid selector operator`},
		} {
			text := o.manifest(t, []int{0})
			if !strings.Contains(text, c2.old) {
				t.Fatalf("no %q in\n%s", c2.old, text)
			}
			for _, object := range objects(t, strings.Replace(text, c2.old, c2.new, 1)) {
				if _, err := c.create(t.Context(), object, true); err == nil || !strings.Contains(err.Error(), c2.says) {
					t.Errorf("%s: %v", c2.new, err)
				}
			}
		}
		// A bundle without its runtime class on the node's side is said so too.
		class, err := c.client.NodeV1().RuntimeClasses().Get(t.Context(), "secexec", metav1.GetOptions{})
		if err != nil || class.Handler != "secexec" {
			t.Errorf("runtime class: %v, %v", class, err)
		}
	})
}

// without leaves out objects of a kind.
func without(all []*unstructured.Unstructured, kind string) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, o := range all {
		if o.GetKind() != kind {
			out = append(out, o)
		}
	}
	return out
}

// lost returns what an object has and the one that the server made of it has not:
// the paths of fields that it dropped.
func lost(sent, made any, path string) []string {
	var out []string
	switch sent := sent.(type) {
	case map[string]any:
		made, ok := made.(map[string]any)
		if !ok {
			return []string{path}
		}
		for key, value := range sent {
			if _, there := made[key]; !there && value != nil {
				out = append(out, path+"."+key)
				continue
			}
			out = append(out, lost(value, made[key], path+"."+key)...)
		}
	case []any:
		made, ok := made.([]any)
		if !ok || len(made) < len(sent) {
			return []string{path}
		}
		for i := range sent {
			out = append(out, lost(sent[i], made[i], fmt.Sprintf("%s[%d]", path, i))...)
		}
	}
	return out
}
