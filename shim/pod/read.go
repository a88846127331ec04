// Package pod reads what containerd asks for in a task's config.json: a pod's
// sandbox, a pod's container, or a guest alone.
//
// A sealed guest is what its owner sealed. Its node chooses memory, CPUs, disks
// and a network, and nothing else: no command, no environment, no file. What a
// pod asks for beyond is refused with a sentence, and never passed over: a pod
// that seems to run with a setting that it does not have is worse than one that
// does not start. Passed over is only what kubelet and containerd add to every
// container unasked, and what takes a right from a process on the node that a
// sealed guest has not got anyway. docs/kubernetes.md lists both.
package pod

import (
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
	Name    string // the container's in its pod; empty: Alone or Sandbox
	Title   string // NAMESPACE/POD/CONTAINER, for people; empty: Alone
	// Create is the guest's, without name and bundle, which the shim knows; nil for
	// a Sandbox.
	Create *hostagentv1.CreateRequest
	// NetNS is the path of the network namespace, empty: none. A Container has its
	// Sandbox's: the path in its own config.json leads through the sandbox's
	// process, which is the shim.
	NetNS    string
	Resolv   string // path of the pod's resolv.conf on the node, empty: none
	Terminal bool
	Grace    time.Duration // how long the guest may take to power off, 0: as long as the caller waits
}

// MaxConfig bounds a config.json, in bytes.
const MaxConfig = 4 << 20

// ErrInvalid says that a config.json is none.
var ErrInvalid = errors.New("invalid config.json")

// Annotations that containerd's CRI plugin sets, from 1.6 to 2.x.
const (
	kindAnnotation      = "io.kubernetes.cri.container-type"
	sandboxAnnotation   = "io.kubernetes.cri.sandbox-id"
	containerAnnotation = "io.kubernetes.cri.container-name"
	podAnnotation       = "io.kubernetes.cri.sandbox-name"
	namespaceAnnotation = "io.kubernetes.cri.sandbox-namespace"
)

// Read reads a config.json. Its errors are ErrInvalid, or a *Refusal of what a
// sealed guest can't have.
func Read(config []byte) (*Request, error) {
	s, err := parse(config)
	if err != nil {
		return nil, err
	}
	r := &Request{Sandbox: s.Annotations[sandboxAnnotation], Terminal: s.Process.Terminal}
	switch kind := s.Annotations[kindAnnotation]; kind {
	case "":
		if r.Sandbox != "" {
			return nil, invalid("annotation %s without %s", sandboxAnnotation, kindAnnotation)
		}
	case "sandbox":
		r.Kind = Sandbox
	case "container":
		r.Kind, r.Name = Container, s.Annotations[containerAnnotation]
	default:
		return nil, invalid("annotation %s is %.100q, not sandbox or container", kindAnnotation, kind)
	}
	if r.Kind != Alone {
		if r.Sandbox == "" {
			return nil, invalid("no annotation %s", sandboxAnnotation)
		}
		r.Title = s.Annotations[namespaceAnnotation] + "/" + s.Annotations[podAnnotation]
		if r.Name != "" {
			r.Title += "/" + r.Name
		}
	}
	if err := s.checkNamespaces(r.Kind); err != nil {
		return nil, err
	}
	if r.Kind != Container {
		r.NetNS = s.namespace("network").Path
	}
	if err := s.checkSysctls(); err != nil {
		return nil, err
	}
	if r.Kind == Sandbox {
		return r, nil
	}
	for _, check := range []func() error{s.checkProgram, s.checkRights, s.checkOthers, func() error { return s.checkMounts(r.Sandbox) }} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	for _, m := range s.Mounts {
		if m.Destination == "/etc/resolv.conf" {
			r.Resolv = m.Source
		}
	}
	r.Create = new(hostagentv1.CreateRequest)
	if err := s.resources(r.Create); err != nil {
		return nil, err
	}
	r.Create.Disks, err = s.disks()
	return r, err
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
