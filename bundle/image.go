package bundle

// What the container image of a bundle says that it runs, and as whom, because
// containerd wants an image to say so. Nothing of it is done: the guest runs what
// was sealed. A container runtime that does not know bundles shows the program's
// name in its error.
const (
	ImageProgram = "sealed guest: run it by the runtime secexec (runtimeClassName: secexec)"
	ImageUser    = "65534:65534"
)
