package kube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// The node agent may do what it needs, and nothing else: whoever takes over one
// node has its token.
func TestAccess(t *testing.T) {
	c := newCluster(t)
	a := c.install(t, "base")
	user := fmt.Sprintf("system:serviceaccount:%s:%s", a.namespace, a.name)

	t.Run("rights", func(t *testing.T) {
		may := map[string]bool{"get nodes": true, "patch nodes": true, "list pods": true, "patch pods/status": true}
		asked := 0
		verbs := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "impersonate", "bind", "escalate"}
		for _, what := range []string{
			"nodes", "nodes/status", "nodes/proxy", "pods", "pods/status", "pods/exec", "pods/log", "pods/binding", "pods/eviction", "pods/ephemeralcontainers",
			"secrets", "configmaps", "serviceaccounts", "serviceaccounts/token", "events", "namespaces", "persistentvolumeclaims", "persistentvolumes",
			"daemonsets.apps", "deployments.apps", "leases.coordination.k8s.io", "runtimeclasses.node.k8s.io", "certificatesigningrequests.certificates.k8s.io",
			"clusterroles.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io",
			"validatingadmissionpolicies.admissionregistration.k8s.io", "validatingadmissionpolicybindings.admissionregistration.k8s.io",
			"users", "*",
		} {
			for _, verb := range append(verbs, "*") {
				resource, group, _ := strings.Cut(what, ".")
				resource, sub, _ := strings.Cut(resource, "/")
				review, err := c.client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
					Spec: authorizationv1.SubjectAccessReviewSpec{
						User: user, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + a.namespace, "system:authenticated"},
						ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Group: group, Resource: resource, Subresource: sub},
					},
				}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				asked++
				if review.Status.Allowed != may[verb+" "+what] {
					t.Errorf("%s %s: allowed is %v", verb, what, review.Status.Allowed)
				}
			}
		}
		t.Logf("%d questions, %d allowed", asked, len(may))
	})

	// Two nodes with a pod each, and the agent of the first.
	for _, node := range []string{"own", "other"} {
		n := newNode(node, 1, hostKey{hash: strings.Repeat("0", 64)})
		if _, err := c.client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "on-" + node},
			Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}},
				ReadinessGates: []corev1.PodReadinessGate{{ConditionType: conditionVerified}}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	bound := c.as(t, c.token(t, a, "own"))
	loose := c.as(t, c.token(t, a, ""))
	condition := func(kind, status string) string {
		return fmt.Sprintf(`{"status":{"conditions":[{"type":%q,"status":%q,"reason":"R","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`, kind, status)
	}
	eventually(t, "the policy is in force, a moment after it is made", func(ctx context.Context) error {
		_, err := loose.CoreV1().Nodes().Patch(ctx, "other", types.MergePatchType, []byte(`{"metadata":{"labels":{"secexec.dev/hostkey-2":"true"}}}`), metav1.PatchOptions{})
		if err == nil || !strings.Contains(err.Error(), "own node") {
			return fmt.Errorf("answer: %v", err)
		}
		return nil
	}, c.api)
	for _, r := range []struct {
		name  string
		as    kubernetes.Interface
		what  string // node or pod
		patch string
		sub   []string
		says  string // of the refusal; "": it is taken
	}{
		{"own node's key", bound, "node own", `{"metadata":{"labels":{"secexec.dev/hostkey-1":"true","secexec.dev/se":null}}}`, nil, ""},
		{"own node's key back", bound, "node own", `{"metadata":{"labels":{"secexec.dev/hostkey-1":null,"secexec.dev/se":"true"}}}`, nil, ""},
		{"another node's key", bound, "node other", `{"metadata":{"labels":{"secexec.dev/hostkey-1":"true"}}}`, nil, "own node"},
		{"a token of no node", loose, "node own", `{"metadata":{"labels":{"secexec.dev/hostkey-1":"true"}}}`, nil, "own node"},
		{"a label that is not ours", bound, "node own", `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`, nil, "labels of secexec.dev only"},
		{"another's label changed", bound, "node own", `{"metadata":{"labels":{"kubernetes.io/arch":"amd64"}}}`, nil, "labels of secexec.dev only"},
		{"another's label taken away", bound, "node own", `{"metadata":{"labels":{"kubernetes.io/arch":null}}}`, nil, "labels of secexec.dev only"},
		{"taints", bound, "node own", `{"spec":{"taints":[{"key":"k","effect":"NoSchedule"}]}}`, nil, "labels of secexec.dev only"},
		{"unschedulable", bound, "node own", `{"spec":{"unschedulable":true}}`, nil, "labels of secexec.dev only"},
		{"annotations", bound, "node own", `{"metadata":{"annotations":{"a":"b"}}}`, nil, "labels of secexec.dev only"},
		{"finalizers", bound, "node own", `{"metadata":{"finalizers":["a.example/b"]}}`, nil, "labels of secexec.dev only"},
		{"places", bound, "node own", `{"status":{"capacity":{"secexec.dev/guest":"9"}}}`, []string{"status"}, "cannot patch resource"},

		{"own pod verified", bound, "pod on-own", condition("secexec.dev/verified", "True"), []string{"status"}, ""},
		{"own pod no longer verified", bound, "pod on-own", condition("secexec.dev/verified", "False"), []string{"status"}, ""},
		{"another's pod verified", bound, "pod on-other", condition("secexec.dev/verified", "True"), []string{"status"}, "own node"},
		{"own pod, with a token of no node", loose, "pod on-own", condition("secexec.dev/verified", "True"), []string{"status"}, "own node"},
		{"own pod ready", bound, "pod on-own", condition("Ready", "True"), []string{"status"}, "condition secexec.dev/verified only"},
		{"own pod's address", bound, "pod on-own", `{"status":{"podIP":"10.1.2.3","podIPs":[{"ip":"10.1.2.3"}]}}`, []string{"status"}, "condition secexec.dev/verified only"},
		{"own pod's end", bound, "pod on-own", `{"status":{"phase":"Succeeded"}}`, []string{"status"}, "condition secexec.dev/verified only"},
		{"own pod's labels", bound, "pod on-own", `{"metadata":{"labels":{"a":"b"}}}`, nil, "cannot patch resource"},
		{"own pod's labels by its status", bound, "pod on-own", `{"metadata":{"labels":{"a":"b"}}}`, []string{"status"}, "labels of secexec.dev only"},
	} {
		t.Run(r.name, func(t *testing.T) {
			kind, name, _ := strings.Cut(r.what, " ")
			var err error
			switch kind {
			case "node":
				_, err = r.as.CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType, []byte(r.patch), metav1.PatchOptions{}, r.sub...)
			case "pod":
				_, err = r.as.CoreV1().Pods("default").Patch(t.Context(), name, types.StrategicMergePatchType, []byte(r.patch), metav1.PatchOptions{}, r.sub...)
			}
			switch {
			case r.says == "" && err != nil:
				t.Error(err)
			case r.says != "" && (err == nil || !strings.Contains(err.Error(), r.says)):
				t.Errorf("wants a refusal with %q, got: %v", r.says, err)
			case r.says != "" && !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err):
				t.Errorf("refused, but not forbidden: %v", err)
			}
		})
	}
	t.Run("reads", func(t *testing.T) {
		if _, err := bound.CoreV1().Nodes().Get(t.Context(), "own", metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
		list, err := bound.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=own"})
		if err != nil || !slices.ContainsFunc(list.Items, func(p corev1.Pod) bool { return p.Name == "on-own" }) {
			t.Errorf("pods of the own node: %v", err)
		}
		if _, err := bound.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("secrets: %v", err)
		}
	})
	// Others are not bound by the policy.
	t.Run("administrator", func(t *testing.T) {
		c.label(t, "other", "example.com/a", "b")
	})
}

// token makes a token of the node agent's account as kubelet makes one for its pod
// on a node; "": of no pod, as an administrator can make one.
func (c *cluster) token(t *testing.T, a *account, node string) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{}
	if node != "" {
		pod := &corev1.Pod{ObjectMeta: *a.template.ObjectMeta.DeepCopy(), Spec: *a.template.Spec.DeepCopy()}
		pod.GenerateName, pod.Namespace, pod.Spec.NodeName = "node-agent-", a.namespace, node
		pod, err := c.client.CoreV1().Pods(a.namespace).Create(t.Context(), pod, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
		if err != nil {
			t.Fatal(err)
		}
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	token, err := c.client.CoreV1().ServiceAccounts(a.namespace).CreateToken(t.Context(), a.name, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}

// as is a client with a token and nothing else.
func (c *cluster) as(t *testing.T, token string) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: c.config.Host, BearerToken: token, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAFile: c.config.CAFile},
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}
