package pod

import (
	"path"
	"strings"
)

// systemMounts are what every container has by the runtime specification, with
// their types: a guest has its own.
var systemMounts = map[string]string{
	"/proc": "proc", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/dev/mqueue": "mqueue",
	"/sys": "sysfs", "/sys/fs/cgroup": "cgroup", "/run": "tmpfs",
}

// checkMounts refuses all mounts but those that are added unasked.
func (s *spec) checkMounts(sandbox string) error {
	for _, m := range s.Mounts {
		if kind, ok := systemMounts[m.Destination]; ok && kind == m.Type || sandbox != "" && m.added(sandbox) {
			continue
		}
		if m.Type != "bind" {
			return refuse(Mount, "%.20s at %.200q", m.Type, m.Destination)
		}
		code, what := classify(m.Source)
		return refuse(code, "%s at %.200q", what, m.Destination)
	}
	return nil
}

// serviceAccount is where kubelet mounts a token into each container whose pod
// does not forbid it.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// added tells whether containerd or kubelet mount this into a pod's container
// though nobody asked for it. Another source at such a place was asked for.
func (m *mount) added(sandbox string) bool {
	if m.Type != "bind" {
		return false
	}
	switch m.Destination {
	case "/etc/hostname", "/etc/resolv.conf", "/dev/shm": // containerd's, of this sandbox
		return strings.HasSuffix(m.Source, "/sandboxes/"+sandbox+"/"+path.Base(m.Destination))
	case "/etc/hosts":
		rest, ok := inPod(m.Source)
		return ok && rest == "etc-hosts"
	case "/dev/termination-log":
		rest, ok := inPod(m.Source)
		return ok && strings.HasPrefix(rest, "containers/")
	case serviceAccount:
		rest, ok := inPod(m.Source)
		name, of := strings.CutPrefix(rest, "volumes/kubernetes.io~projected/kube-api-access-")
		return ok && of && !strings.Contains(name, "/")
	}
	return false
}

// inPod returns the rest of a path behind kubelet's folder of a pod,
// ROOT/pods/UID.
func inPod(source string) (rest string, ok bool) {
	_, behind, ok := strings.Cut(source, "/pods/")
	if !ok {
		return "", false
	}
	_, rest, ok = strings.Cut(behind, "/")
	return rest, ok
}

// classify tells what a mount is by where kubelet keeps it.
func classify(source string) (Code, string) {
	rest, ok := inPod(source)
	if !ok {
		return HostPath, "hostPath " + clip(source)
	}
	kind, behind, _ := strings.Cut(rest, "/")
	name := path.Base(behind)
	switch kind {
	case "containers":
		return TerminationPath, "terminationMessagePath"
	case "etc-hosts":
		return Config, "hosts file"
	case "volumes", "volume-subpaths":
	default:
		return HostPath, "hostPath " + clip(source)
	}
	if kind == "volume-subpaths" { // volume-subpaths/VOLUME/CONTAINER/INDEX: of any kind
		volume, _, _ := strings.Cut(behind, "/")
		return Files, "subPath of volume " + clip(volume)
	}
	plugin, volume, _ := strings.Cut(behind, "/")
	switch plugin {
	case "kubernetes.io~configmap":
		return Config, "configMap volume " + clip(name)
	case "kubernetes.io~secret":
		return Config, "secret volume " + clip(name)
	case "kubernetes.io~projected":
		return Config, "projected volume " + clip(name)
	case "kubernetes.io~downward-api":
		return Config, "downwardAPI volume " + clip(name)
	case "kubernetes.io~empty-dir":
		return Scratch, "emptyDir " + clip(name)
	}
	volume, _, _ = strings.Cut(volume, "/")
	return Files, "volume " + clip(volume)
}

func clip(s string) string { return s[:min(len(s), 200)] }
