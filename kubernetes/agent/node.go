package agent

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/secexec/secexec/kubernetes"
	"github.com/secexec/secexec/kubernetes/deviceplugin"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"github.com/secexec/secexec/shim/ledger"
)

// Places says how many guests a node has room for.
type Places struct {
	Count     int // 0: the node's memory through MemoryMiB
	MemoryMiB int // that each place stands for
}

// Bounds of a node's places. The list of all is one message to kubelet.
const (
	maxPlaces = 1000
	// DefaultPlaceMemory is what secexec build gives a guest unless told otherwise.
	DefaultPlaceMemory = 1024
)

// of is how many places a node has for pods: those that guests which are not
// containerd's take are not there. Which guests fit is the scheduler's sum of
// their memory; places bound how many.
func (p Places) of(info *hostagentv1.NodeInfoResponse, guests []*hostagentv1.Guest) int {
	n := p.Count
	if n <= 0 {
		n = int(info.MemoryMib / uint64(max(p.MemoryMiB, 1)))
	}
	for _, g := range guests {
		if live(g) && !strings.HasPrefix(g.Name, ledger.GuestPrefix) {
			n--
		}
	}
	return min(max(n, 0), maxPlaces)
}

// live tells whether a guest has its memory, or will have it without being asked.
func live(g *hostagentv1.Guest) bool {
	switch g.State {
	case "starting", "running", "ready", "stopping", "waiting":
		return true
	}
	return false
}

// devices are a node's places as kubelet counts them.
func devices(n int, healthy bool) []deviceplugin.Device {
	out := make([]deviceplugin.Device, n)
	for i := range out {
		out[i] = deviceplugin.Device{ID: fmt.Sprintf("guest-%d", i), Healthy: healthy}
	}
	return out
}

// factsOf are what the node's labels follow from.
func factsOf(info *hostagentv1.NodeInfoResponse) kubernetes.Facts {
	return kubernetes.Facts{
		Version: info.Version, Platform: info.Platform, Usable: info.Problem == "",
		HostKeys: info.HostKeyHashes, HostKeysKnown: info.HostKeyHashesKnown,
	}
}

// label makes the node's labels true and returns what it changed.
func (s *Server) label(ctx context.Context, node string, facts kubernetes.Facts) (map[string]*string, error) {
	path := "/api/v1/nodes/" + url.PathEscape(node)
	var object struct {
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
	}
	if err := s.get(ctx, path, nil, &object); err != nil {
		return nil, fmt.Errorf("read node %s: %w", node, err)
	}
	change, err := kubernetes.Change(object.Metadata.Labels, facts)
	if err != nil || len(change) == 0 {
		return nil, err
	}
	patch := map[string]any{"metadata": map[string]any{"labels": change}}
	if err := s.patch(ctx, path, mergePatch, patch); err != nil {
		return nil, fmt.Errorf("label node %s: %w", node, err)
	}
	return change, nil
}
