package kubernetes

import (
	"errors"
	"fmt"
	"slices"
)

// ErrPlatform says that a platform is none that guests run on.
var ErrPlatform = errors.New("unknown platform")

// NodeAffinity is what Kubernetes' type of this name says of nodes that are
// required, in its JSON form.
type NodeAffinity struct {
	Required NodeSelector `json:"requiredDuringSchedulingIgnoredDuringExecution"`
}

// NodeSelector takes a node that one of its terms takes.
type NodeSelector struct {
	Terms []NodeSelectorTerm `json:"nodeSelectorTerms"`
}

// NodeSelectorTerm takes a node that all its expressions take.
type NodeSelectorTerm struct {
	Expressions []Expression `json:"matchExpressions"`
}

// Expression is about one label.
type Expression struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"`
	Values   []string `json:"values"`
}

// Affinity is the affinity to nodes that can start an image with key slots for
// these hashes (hex), of a bundle's manifest, on a platform: a term for each key,
// in the order of labels, so that the order of slots does not matter.
func Affinity(hashes []string, platform string) (*NodeAffinity, error) {
	key, value, err := PlatformLabel(platform)
	if err != nil {
		return nil, err
	}
	var labels []string
	for _, hash := range hashes {
		label, err := HostKeyLabel(hash)
		if err != nil {
			return nil, err
		}
		labels = append(labels, label)
	}
	if len(labels) == 0 { // Kubernetes takes no node by no term, and refuses such an affinity
		return nil, fmt.Errorf("no key slot: %w", ErrHash)
	}
	slices.Sort(labels)
	out := new(NodeAffinity)
	for _, label := range slices.Compact(labels) {
		out.Required.Terms = append(out.Required.Terms, NodeSelectorTerm{[]Expression{
			{label, "In", []string{True}}, {key, "In", []string{value}},
		}})
	}
	return out, nil
}

// PlatformLabel is the label that a node must have for guests to start there on
// a platform.
func PlatformLabel(platform string) (key, value string, err error) {
	switch platform {
	case PlatformSE:
		return LabelSE, True, nil
	case PlatformEmulated:
		return LabelPlatform, PlatformEmulated, nil
	}
	return "", "", fmt.Errorf("%w %.40q: %s or %s", ErrPlatform, platform, PlatformSE, PlatformEmulated)
}
