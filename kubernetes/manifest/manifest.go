// Package manifest writes what runs a sealed guest on Kubernetes: a RuntimeClass,
// and a Pod or Deployment that the scheduler puts only where the image can start.
// The text is the same for the same input, so it can be kept and compared.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/secexec/secexec/form"
	"github.com/secexec/secexec/kubernetes"
)

// Kinds of objects.
const (
	RuntimeClass = "runtimeclass"
	Pod          = "pod"
	Deployment   = "deployment"
)

// Kinds lists them in the order in which they are written.
var Kinds = []string{RuntimeClass, Pod, Deployment}

// ErrOption says that something can't be asked for.
var ErrOption = errors.New("can't write a Kubernetes manifest")

// Workload is what a bundle's manifest says.
type Workload struct {
	Name      string
	ImageID   string   // hex
	Identity  string   // Ed25519 public key that checks readiness reports, hex
	MemoryMiB int      // of the guest
	HostKeys  []string // hashes of the key slots, hex
}

// Options are what the user asks for.
type Options struct {
	Kinds        []string
	Name         string // "": the workload's
	Namespace    string // "": none is named
	Image        string // reference to pull it by
	Replicas     int    // of a Deployment
	CPUs         int
	MemoryMiB    int    // 0: the workload's
	Platform     string // kubernetes.PlatformSE, kubernetes.PlatformEmulated
	RuntimeClass string // its name, "": kubernetes.RuntimeClass
	Restart      string // Always, OnFailure, Never; "": Always
	Disks        []Disk
}

// Disk is a raw block volume that becomes a disk of the guest.
type Disk struct {
	Serial string // by which the guest finds it
	Claim  string // name of the PersistentVolumeClaim
}

// DevicePath and a serial number are where a pod says its block volume is. The
// shim takes the disk's serial number from it.
const DevicePath = "/dev/"

// What a pod takes beside its guest's memory, in MiB: QEMU, and under emulation
// the code that it translates to. hostagent bounds a guest's unit by the same.
const (
	Overhead         = 192
	OverheadEmulated = 512
)

// Bounds, of which Kubernetes has no lower ones.
const (
	MaxReplicas = 10_000
	MaxCPUs     = 248 // KVM's on s390x
	maxDisks    = 16
)

// Forms of names, compiled by who needs them and not at each start of secexec.
var (
	dnsLabel     = compiled(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	dnsSubdomain = compiled(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	reference    = compiled(`^[A-Za-z0-9][A-Za-z0-9._/:@-]*$`)
)

func compiled(exp string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(exp) })
}

// Text returns the objects, a YAML document each.
func Text(w Workload, o Options) ([]byte, error) {
	if o.Name == "" {
		o.Name = w.Name
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = w.MemoryMiB
	}
	if o.RuntimeClass == "" {
		o.RuntimeClass = kubernetes.RuntimeClass
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, kind := range Kinds {
		if !slices.Contains(o.Kinds, kind) {
			continue
		}
		var doc object
		var err error
		switch kind {
		case RuntimeClass:
			doc, err = runtimeClass(o)
		case Pod:
			doc, err = pod(w, o)
		case Deployment:
			doc, err = deployment(w, o)
		}
		if err != nil {
			return nil, err
		}
		document(&b, doc)
	}
	return b.Bytes(), nil
}

func (o *Options) check() error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrOption, fmt.Sprintf(format, args...))
	}
	for _, kind := range o.Kinds {
		if !slices.Contains(Kinds, kind) {
			return refuse("kind %.40q is none of %s", kind, strings.Join(Kinds, ", "))
		}
	}
	has := func(kind string) bool { return slices.Contains(o.Kinds, kind) }
	switch {
	case len(o.Kinds) == 0:
		return refuse("no kind: name some of %s", strings.Join(Kinds, ", "))
	case has(Pod) && has(Deployment):
		return refuse("a Pod and a Deployment of one name would both be its pods: choose one")
	case len(o.RuntimeClass) > 253 || !dnsSubdomain().MatchString(o.RuntimeClass):
		return refuse("runtime class %.80q is no name that Kubernetes takes", o.RuntimeClass)
	case !has(Pod) && !has(Deployment):
		return nil
	case len(o.Name) > 63 || !dnsLabel().MatchString(o.Name):
		return refuse("name %.80q is not 1 to 63 characters of a-z, 0-9 and '-' with none at the ends: choose one by --name", o.Name)
	case o.Namespace != "" && (len(o.Namespace) > 63 || !dnsLabel().MatchString(o.Namespace)):
		return refuse("namespace %.80q is no name that Kubernetes takes", o.Namespace)
	case o.Image == "":
		return refuse("no image: name the one that was pushed by --image")
	case len(o.Image) > 1000 || !reference().MatchString(o.Image):
		return refuse("image %.80q is no reference", o.Image)
	case o.Replicas < 0 || o.Replicas > MaxReplicas:
		return refuse("%d replicas are not in 0..%d", o.Replicas, MaxReplicas)
	case o.CPUs < 1 || o.CPUs > MaxCPUs:
		return refuse("%d CPUs are not in 1..%d", o.CPUs, MaxCPUs)
	case o.MemoryMiB < 64:
		return refuse("%d MiB of memory, at least 64", o.MemoryMiB)
	case !slices.Contains([]string{"", "Always", "OnFailure", "Never"}, o.Restart):
		return refuse("restart policy %.40q is none of Always, OnFailure, Never", o.Restart)
	case has(Deployment) && o.Restart != "" && o.Restart != "Always":
		return refuse("a Deployment's pods are restarted Always, not %s: print a Pod", o.Restart)
	case len(o.Disks) > maxDisks:
		return refuse("%d disks, at most %d", len(o.Disks), maxDisks)
	case has(Deployment) && len(o.Disks) > 0 && o.Replicas > 1:
		return refuse("%d guests would write to the same disks: let each have a Deployment of its own", o.Replicas)
	}
	seen := make(map[string]bool)
	for _, d := range o.Disks {
		switch {
		case !form.Serial.MatchString(d.Serial) || seen[d.Serial]:
			return refuse("disk serial %.40q is not a unique name of 1 to 20 characters", d.Serial)
		case len(d.Claim) > 253 || !dnsSubdomain().MatchString(d.Claim):
			return refuse("claim %.80q is no name that Kubernetes takes", d.Claim)
		}
		seen[d.Serial] = true
	}
	return nil
}

// runtimeClass says which of containerd's runtimes it is and where it is.
func runtimeClass(o Options) (object, error) {
	key, value, err := kubernetes.PlatformLabel(o.Platform)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOption, err)
	}
	overhead := Overhead
	if o.Platform == kubernetes.PlatformEmulated {
		overhead = OverheadEmulated
	}
	return object{
		{"apiVersion", "node.k8s.io/v1"},
		{"kind", "RuntimeClass"},
		{"metadata", object{{"name", o.RuntimeClass}}},
		{"handler", kubernetes.RuntimeClass},
		{"overhead", object{{"podFixed", object{{"memory", fmt.Sprintf("%dMi", overhead)}}}}},
		{"scheduling", object{{"nodeSelector", object{{key, value}}}}},
	}, nil
}

func pod(w Workload, o Options) (object, error) {
	spec, err := podSpec(w, o)
	if err != nil {
		return nil, err
	}
	return object{
		{"apiVersion", "v1"},
		{"kind", "Pod"},
		{"metadata", append(named(o), metadata(w, o)...)},
		{"spec", spec},
	}, nil
}

func deployment(w Workload, o Options) (object, error) {
	pod, err := podSpec(w, o)
	if err != nil {
		return nil, err
	}
	spec := object{
		{"replicas", o.Replicas},
		{"selector", object{{"matchLabels", labels(o)}}},
	}
	if len(o.Disks) > 0 { // the next guest can't have them before the last one gave them back
		spec.set("strategy", object{{"type", "Recreate"}})
	}
	spec.set("template", object{{"metadata", metadata(w, o)}, {"spec", pod}})
	return object{
		{"apiVersion", "apps/v1"},
		{"kind", "Deployment"},
		{"metadata", append(named(o), field{"labels", labels(o)})},
		{"spec", spec},
	}, nil
}

func named(o Options) object {
	out := object{{"name", o.Name}}
	out.set("namespace", o.Namespace)
	return out
}

func labels(o Options) object { return object{{"app.kubernetes.io/name", o.Name}} }

// metadata is a pod's, without its name. By identity and image its node agent
// checks the signed report.
func metadata(w Workload, o Options) object {
	return object{
		{"labels", labels(o)},
		{"annotations", object{{kubernetes.AnnotationIdentity, w.Identity}, {kubernetes.AnnotationImageID, w.ImageID}}},
	}
}

func podSpec(w Workload, o Options) (object, error) {
	where, err := kubernetes.Affinity(w.HostKeys, o.Platform)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOption, err)
	}
	container := object{
		{"name", o.Name},
		{"image", o.Image},
		{"resources", resources(o)},
		{"securityContext", restricted},
	}
	var devices, volumes list
	for i, d := range o.Disks {
		name := fmt.Sprintf("disk-%d", i)
		devices = append(devices, object{{"name", name}, {"devicePath", DevicePath + d.Serial}})
		volumes = append(volumes, object{{"name", name}, {"persistentVolumeClaim", object{{"claimName", d.Claim}}}})
	}
	container.set("volumeDevices", devices)
	spec := object{
		{"runtimeClassName", o.RuntimeClass},
		{"affinity", object{{"nodeAffinity", affinity(where)}}},
		{"readinessGates", list{object{{"conditionType", kubernetes.ConditionVerified}}}},
		// A guest takes no files and no environment of the cluster's.
		{"automountServiceAccountToken", false},
		{"enableServiceLinks", false},
	}
	spec.set("restartPolicy", o.Restart)
	spec.set("containers", list{container})
	spec.set("volumes", volumes)
	return spec, nil
}

// restricted is what a namespace of the Pod Security Standard of this name wants
// to read. Nothing of a guest runs on its node, so nothing is taken from it.
var restricted = object{
	{"allowPrivilegeEscalation", false},
	{"capabilities", object{{"drop", list{"ALL"}}}},
	{"runAsNonRoot", true},
	{"seccompProfile", object{{"type", "RuntimeDefault"}}},
}

// resources are the guest's memory and CPUs, and its place on the node. What is
// asked for is the limit: a guest's memory is never given back.
func resources(o Options) object {
	amounts := object{{"cpu", fmt.Sprint(o.CPUs)}, {"memory", fmt.Sprintf("%dMi", o.MemoryMiB)}, {kubernetes.ResourceGuest, "1"}}
	return object{{"requests", amounts}, {"limits", amounts}}
}

func affinity(a *kubernetes.NodeAffinity) object {
	var terms list
	for _, t := range a.Required.Terms {
		var expressions list
		for _, e := range t.Expressions {
			var values list
			for _, v := range e.Values {
				values = append(values, v)
			}
			expressions = append(expressions, object{{"key", e.Key}, {"operator", e.Operator}, {"values", values}})
		}
		terms = append(terms, object{{"matchExpressions", expressions}})
	}
	return object{{"requiredDuringSchedulingIgnoredDuringExecution", object{{"nodeSelectorTerms", terms}}}}
}
