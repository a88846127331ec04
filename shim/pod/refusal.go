package pod

import "fmt"

// Code is the stable code of something that a sealed guest can't have.
// docs/errors.md lists them; a test compares.
type Code string

// Codes of refusals.
const (
	HostPath        Code = "P301"
	Config          Code = "P302"
	Scratch         Code = "P303"
	Files           Code = "P304"
	Mount           Code = "P305"
	TerminationPath Code = "P306"
	Privileged      Code = "P310"
	Capability      Code = "P311"
	Unmasked        Code = "P312"
	User            Code = "P313"
	ReadOnlyRoot    Code = "P314"
	UserNamespace   Code = "P315"
	Sysctl          Code = "P316"
	HostNetwork     Code = "P320"
	HostPID         Code = "P321"
	HostIPC         Code = "P322"
	SharedPID       Code = "P323"
	Image           Code = "P330"
	Command         Code = "P331"
	Environment     Code = "P332"
	WorkingDir      Code = "P333"
	Device          Code = "P340"
	Serial          Code = "P341"
	HugePages       Code = "P342"
	Class           Code = "P343"
	Hook            Code = "P344"
	Second          Code = "P350"
)

// table has each code's meaning and remedy.
var table = map[Code]struct{ Meaning, Remedy string }{
	HostPath:        {"a sealed guest takes no file or folder of its node", "seal the files into the image, or give them as a volume with volumeMode: Block"},
	Config:          {"a sealed guest takes no configMap, secret, downward API or projected volume: its node could read and change them", "seal them into the image, or deliver them to the running guest with secexec connect"},
	Scratch:         {"a sealed guest shares no emptyDir with its node", "the guest writes to its own disks, which go with it; seal a blank volume for more room"},
	Files:           {"a sealed guest takes no file system of its node", "give the volume with volumeMode: Block and volumeDevices, and seal its key into the image"},
	Mount:           {"a sealed guest has no mounts of its node's", "leave it out; mounts are sealed into the image"},
	TerminationPath: {"a sealed guest writes no termination message", "leave terminationMessagePath out; terminationMessagePolicy: FallbackToLogsOnError shows the end of the console"},
	Privileged:      {"a sealed guest can't be privileged: nothing of it runs on its node", "leave privileged out; what its programs may do in the guest is sealed"},
	Capability:      {"a sealed guest gets no capabilities from its node", "leave capabilities.add out; what its programs may do in the guest is sealed"},
	Unmasked:        {"a sealed guest does not see its node's /proc", "leave procMount out"},
	User:            {"a sealed guest's programs run as the users that were sealed", "leave runAsUser, runAsGroup, supplementalGroups and fsGroup out"},
	ReadOnlyRoot:    {"whether a sealed guest's root is read-only was sealed", "leave readOnlyRootFilesystem out; build with root.verity for a read-only root"},
	UserNamespace:   {"a sealed guest has no user namespace on its node, which none of its programs runs on", "leave hostUsers: false out"},
	Sysctl:          {"a sealed guest's kernel parameters were sealed", "leave sysctls out; seal them with the image"},
	HostNetwork:     {"a sealed guest can't use its node's network", "leave hostNetwork out: the guest is joined to the pod's network"},
	HostPID:         {"a sealed guest can't see its node's processes", "leave hostPID out"},
	HostIPC:         {"a sealed guest can't share memory with its node", "leave hostIPC out"},
	SharedPID:       {"a sealed guest shares its processes with no other container", "leave shareProcessNamespace out"},
	Image:           {"the image is no sealed bundle, or the pod names a command for it", "leave command out; make images with secexec bundle push --format image, and run others in pods of their own with another runtime class"},
	Command:         {"a sealed guest takes no command or arguments", "leave command and args out: what runs was sealed"},
	Environment:     {"a sealed guest takes no environment variables", "leave env and envFrom out: seal them into the image, or deliver secrets with secexec connect"},
	WorkingDir:      {"a sealed guest takes no working directory", "leave workingDir out: it was sealed"},
	Device:          {"a sealed guest takes block devices of its node only", "leave the device out; disks come as volumes with volumeMode: Block"},
	Serial:          {"a disk's serial number is the name of its devicePath: /dev/ and 1 to 20 characters, each once", "choose another devicePath, such as /dev/data: the guest finds the disk by the serial number data"},
	HugePages:       {"a sealed guest's memory can't be huge pages", "leave the hugepages limit out"},
	Class:           {"a sealed guest takes memory, CPUs and nothing else of its node's resources", "leave the class of block I/O, RDT, network or RDMA out"},
	Hook:            {"hooks can't run in a sealed guest", "leave out what adds hooks, such as CDI devices"},
	Second:          {"a pod holds one sealed guest: init, ephemeral and further containers can't share it", "put other containers into pods of their own"},
}

// Refusal is an error about something that a sealed guest can't have.
type Refusal struct {
	Code  Code
	Thing string // what asked for it, as people wrote it; empty: the code says it all
}

func refuse(code Code, format string, args ...any) error {
	return &Refusal{code, fmt.Sprintf(format, args...)}
}

// Error shows code, thing, meaning and remedy in one line.
func (r *Refusal) Error() string {
	e := table[r.Code]
	if r.Thing == "" {
		return fmt.Sprintf("%s: %s: %s", r.Code, e.Meaning, e.Remedy)
	}
	return fmt.Sprintf("%s: %s: %s: %s", r.Code, r.Thing, e.Meaning, e.Remedy)
}

// Follow tells whether a container may run in a sandbox after, or beside, one of
// this name: it must be the same one, started again.
func Follow(earlier string, next *Request) error {
	if earlier == next.Name {
		return nil
	}
	return refuse(Second, "container %.100q after %.100q", next.Name, earlier)
}
