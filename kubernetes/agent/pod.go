package agent

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/secexec/secexec/kubernetes"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/shim/ledger"
)

// pod is what of a Pod matters here.
type pod struct {
	Metadata struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		UID               string            `json:"uid"`
		Annotations       map[string]string `json:"annotations"`
		DeletionTimestamp string            `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		ReadinessGates []struct {
			ConditionType string `json:"conditionType"`
		} `json:"readinessGates"`
	} `json:"spec"`
	Status struct {
		Phase             string      `json:"phase"`
		Conditions        []condition `json:"conditions"`
		ContainerStatuses []struct {
			ContainerID string `json:"containerID"`
		} `json:"containerStatuses"`
	} `json:"status"`
}

// condition is one of a pod's.
type condition struct {
	Type               string `json:"type"`
	Status             string `json:"status"`
	Reason             string `json:"reason,omitempty"`
	Message            string `json:"message,omitempty"`
	LastTransitionTime string `json:"lastTransitionTime,omitempty"`
}

// Reasons of the condition, in Kubernetes' form.
const (
	reasonVerified     = "ReportVerified"
	reasonNotVerified  = "ReportNotVerified" // the guest's report proves nothing, or another thing
	reasonNoReport     = "NoReport"          // the guest could not be asked
	reasonNotStarted   = "ContainerNotStarted"
	reasonNoGuest      = "NoGuest"
	reasonNotReady     = "GuestNotReady"
	reasonUnhealthy    = "GuestUnhealthy"
	reasonBadReference = "InvalidAnnotation"
)

// namespace is containerd's for all containers that kubelet asked for.
const namespace = "k8s.io"

// gated tells whether a pod waits for us: it has our gate and is not at its end.
func (p *pod) gated() bool {
	return p.Metadata.DeletionTimestamp == "" && p.Status.Phase != "Succeeded" && p.Status.Phase != "Failed" &&
		slices.ContainsFunc(p.Spec.ReadinessGates, func(g struct {
			ConditionType string `json:"conditionType"`
		}) bool {
			return g.ConditionType == kubernetes.ConditionVerified
		})
}

// container is the id of the pod's container, "" before it has one. A pod of
// ours has one container: the guest.
func (p *pod) container() string {
	if len(p.Status.ContainerStatuses) != 1 {
		return ""
	}
	id, _ := strings.CutPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	return id
}

// guestOf finds the guest that is a container.
func guestOf(container string, guests []*hostagentv1.Guest) *hostagentv1.Guest {
	name := ledger.GuestName(namespace, container)
	i := slices.IndexFunc(guests, func(g *hostagentv1.Guest) bool { return g.Name == name })
	if i < 0 {
		return nil
	}
	return guests[i]
}

// judge says why a pod's guest is not ready, as far as its node can tell without
// asking it; nil: its report decides.
func judge(p *pod, g *hostagentv1.Guest) *condition {
	not := func(reason, format string, args ...any) *condition {
		return &condition{Status: "False", Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case p.container() == "":
		return not(reasonNotStarted, "the pod's container has not been started")
	case g == nil:
		return not(reasonNoGuest, "hostagent has no guest for the pod's container")
	case g.Failure != nil:
		return not(reasonNotReady, "guest %s is %s: %s: %s: %s", g.Name, g.State, g.Failure.Code, g.Failure.Message, g.Failure.Remedy)
	case g.State != "ready": // not its stage too, each of which would be a write to the API server
		return not(reasonNotReady, "guest %s is %s", g.Name, g.State)
	case g.Unhealthy:
		return not(reasonUnhealthy, "the workload of guest %s missed its watchdog's time", g.Name)
	}
	return nil
}

// maxMessage bounds a condition's message, in bytes. Kubernetes takes 32 KiB.
const maxMessage = 1024

// update completes a condition so that it follows the one that the pod has, and
// tells whether it is another one.
func (p *pod) update(c condition, now time.Time) (condition, bool) {
	c.Type = kubernetes.ConditionVerified
	c.Message = strings.ToValidUTF8(c.Message[:min(len(c.Message), maxMessage)], "")
	c.LastTransitionTime = now.UTC().Format(time.RFC3339)
	i := slices.IndexFunc(p.Status.Conditions, func(o condition) bool { return o.Type == c.Type })
	if i < 0 {
		return c, true
	}
	old := p.Status.Conditions[i]
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	return c, old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message
}

// pods lists the pods of a node that wait for us.
func (s *Server) pods(ctx context.Context, node string) ([]*pod, error) {
	var list struct {
		Items []*pod `json:"items"`
	}
	if err := s.get(ctx, "/api/v1/pods", url.Values{"fieldSelector": {"spec.nodeName=" + node}}, &list); err != nil {
		return nil, fmt.Errorf("list pods of node %s: %w", node, err)
	}
	return slices.DeleteFunc(list.Items, func(p *pod) bool { return p == nil || !p.gated() }), nil
}

// setCondition writes a pod's condition. It fails for another pod of its name.
func (s *Server) setCondition(ctx context.Context, p *pod, c condition) error {
	path := "/api/v1/namespaces/" + url.PathEscape(p.Metadata.Namespace) + "/pods/" + url.PathEscape(p.Metadata.Name) + "/status"
	patch := map[string]any{
		"metadata": map[string]any{"uid": p.Metadata.UID},
		"status":   map[string]any{"conditions": []condition{c}}, // merged by type
	}
	if err := s.patch(ctx, path, strategicPatch, patch); err != nil {
		return fmt.Errorf("set condition of pod %s/%s: %w", p.Metadata.Namespace, p.Metadata.Name, err)
	}
	return nil
}
