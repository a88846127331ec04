package kube

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// objects reads a stream of manifests.
func objects(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		var o unstructured.Unstructured
		switch err := decoder.Decode(&o); {
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			t.Fatalf("read manifest: %v\n%s", err, text)
		case len(o.Object) > 0:
			out = append(out, &o)
		}
	}
}

// typed is an object in the form of its Go type.
func typed[T any](t *testing.T, o *unstructured.Unstructured) *T {
	t.Helper()
	out := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, out); err != nil {
		t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
	return out
}

// podOf returns the pod that manifests describe, by themselves or as the template
// of a Deployment.
func podOf(t *testing.T, all []*unstructured.Unstructured) *corev1.Pod {
	t.Helper()
	for _, o := range all {
		switch o.GetKind() {
		case "Pod":
			return typed[corev1.Pod](t, o)
		case "Deployment":
			template, found, err := unstructured.NestedMap(o.Object, "spec", "template")
			if err != nil || !found {
				t.Fatalf("no template in %s: %v", o.GetName(), err)
			}
			return typed[corev1.Pod](t, &unstructured.Unstructured{Object: template})
		}
	}
	t.Fatalf("no pod in %d manifests", len(all))
	return nil
}

// create sends an object with strict validation of its fields: one that the
// server does not know is an error, as is one that is there twice.
func (c *cluster) create(ctx context.Context, o *unstructured.Unstructured, dryRun bool) (*unstructured.Unstructured, error) {
	client, err := dynamic.NewForConfig(c.config)
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.client.Discovery()))
	kind := o.GroupVersionKind()
	mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, err
	}
	var resource dynamic.ResourceInterface = client.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		namespace := o.GetNamespace()
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		resource = client.Resource(mapping.Resource).Namespace(namespace)
	}
	options := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	return resource.Create(ctx, o, options)
}

// kustomize builds a folder of packaging/kubernetes as `kubectl kustomize` does.
func kustomize(t *testing.T, folder string) []*unstructured.Unstructured {
	t.Helper()
	path := filepath.Join(repository(), "packaging", "kubernetes", folder)
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), path)
	if err != nil {
		t.Fatalf("kustomize %s: %v", folder, err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	all := objects(t, string(text))
	if len(all) == 0 {
		t.Fatalf("kustomize %s: nothing", folder)
	}
	return all
}

// account is the node agent's, as its DaemonSet says.
type account struct {
	namespace, name string
	template        corev1.PodTemplateSpec
}

// install creates all that a folder of packaging/kubernetes describes, and returns
// the node agent's account.
func (c *cluster) install(t *testing.T, folder string) *account {
	t.Helper()
	var found *account
	for _, o := range kustomize(t, folder) {
		if _, err := c.create(t.Context(), o, false); err != nil {
			t.Fatalf("create %s %s: %v", o.GetKind(), o.GetName(), err)
		}
		if o.GetKind() == "DaemonSet" {
			set := typed[appsv1.DaemonSet](t, o)
			found = &account{set.Namespace, set.Spec.Template.Spec.ServiceAccountName, set.Spec.Template}
		}
	}
	if found == nil {
		t.Fatalf("no DaemonSet in %s", folder)
	}
	return found
}
