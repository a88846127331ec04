// Package pod reads what containerd asks for in a task's config.json.
package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Kind is what a task is.
type Kind int

// Kinds.
const (
	Alone     Kind = iota // a guest by itself: ctr, nerdctl
	Sandbox               // a pod: the shim's bookkeeping, without a guest
	Container             // a pod's container: the guest
)

// Request is what a task's config.json asks for.
type Request struct {
	Kind    Kind
	Sandbox string // id of the pod's sandbox; empty: Alone
	// Create is the guest's, without name and bundle, which the shim knows.
	Create   *hostagentv1.CreateRequest
	NetNS    string // path of the network namespace, empty: none
	Terminal bool
	Grace    time.Duration // how long the guest may take to power off, 0: as long as the caller waits
}

// MaxConfig bounds a config.json.
const MaxConfig = 4 << 20

// ErrInvalid says that a config.json is none.
var ErrInvalid = errors.New("invalid config.json")

// Annotations that containerd's CRI plugin sets.
const (
	kindAnnotation    = "io.kubernetes.cri.container-type"
	sandboxAnnotation = "io.kubernetes.cri.sandbox-id"
)

// Read reads a config.json.
func Read(config []byte) (*Request, error) {
	if len(config) > MaxConfig {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrInvalid, MaxConfig)
	}
	var spec struct {
		Annotations map[string]string
		Process     struct{ Terminal bool }
		Linux       struct {
			Namespaces []struct{ Type, Path string }
		}
	}
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	r := &Request{Sandbox: spec.Annotations[sandboxAnnotation], Create: new(hostagentv1.CreateRequest), Terminal: spec.Process.Terminal}
	switch kind := spec.Annotations[kindAnnotation]; kind {
	case "":
	case "sandbox":
		r.Kind = Sandbox
	case "container":
		r.Kind = Container
	default:
		return nil, fmt.Errorf("%w: annotation %s is %.100q, not sandbox or container", ErrInvalid, kindAnnotation, kind)
	}
	if r.Kind != Alone && r.Sandbox == "" {
		return nil, fmt.Errorf("%w: no annotation %s", ErrInvalid, sandboxAnnotation)
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == "network" {
			r.NetNS = ns.Path
		}
	}
	return r, nil
}
