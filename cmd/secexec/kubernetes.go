package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/kubernetes"
	"github.com/secexec/secexec/kubernetes/manifest"
)

func newKubernetes() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "kubernetes",
		Aliases: []string{"kube"},
		Short:   "Run bundles on a Kubernetes cluster",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKubernetesManifest())
	return cmd
}

func newKubernetesManifest() *cobra.Command {
	var o manifest.Options
	var flags transferFlags
	var disks []string
	cmd := &cobra.Command{
		Use:   "manifest BUNDLE|REFERENCE",
		Short: "Print the Pod or Deployment that runs a bundle, for kubectl apply",
		Long: `Manifest prints YAML for kubectl apply. The pod goes only to nodes that hold
one of the host keys that the image was sealed for, takes one of their places for
guests, and is ready when its node agent has verified its signed report.

Memory is the bundle's; what QEMU needs beside it is the RuntimeClass's overhead.
The RuntimeClass is the cluster administrator's: --kind runtimeclass prints it,
and packaging/kubernetes holds it too.

A bundle that was pushed as an image is named docker://HOST/..., and little of it
is read. That is the pod's image too unless --image says otherwise.

What the pod can't do is refused when it starts, with a sentence: a guest shares
no files, processes or network of its node.`,
		Example: `  secexec kubernetes manifest hello --image registry.example.com/team/hello:1
  secexec kubernetes manifest docker://registry.example.com/team/hello:1 --kind deployment --replicas 3
  secexec kubernetes manifest hello --kind runtimeclass`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, text := range disks {
				serial, claim, ok := strings.Cut(text, "=")
				if !ok {
					return usageError{fmt.Errorf("--disk %.100q is not SERIAL=CLAIM", text)}
				}
				o.Disks = append(o.Disks, manifest.Disk{Serial: serial, Claim: claim})
			}
			m, err := flags.manifest(cmd, args[0])
			if err != nil {
				return err
			}
			if pushed, ok := strings.CutPrefix(args[0], "docker://"); ok && o.Image == "" {
				o.Image = pushed
			}
			text, err := manifest.Text(workload(m), o)
			if errors.Is(err, manifest.ErrOption) {
				return usageError{err}
			}
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Kinds, "kind", []string{manifest.Pod}, "what to print: "+strings.Join(manifest.Kinds, ", ")+" (several with commas between)")
	f.StringVar(&o.Name, "name", "", "`NAME` of the object (default: the bundle's)")
	f.StringVarP(&o.Namespace, "namespace", "n", "", "`NAMESPACE` of the object (default: kubectl's)")
	f.StringVar(&o.Image, "image", "", "`REFERENCE` that the bundle was pushed to as an image (default: the one that is named by docker://)")
	f.IntVar(&o.Replicas, "replicas", 1, "guests of a Deployment, `N`")
	f.IntVar(&o.CPUs, "cpus", 1, "virtual CPUs of each guest, `N`")
	f.IntVar(&o.MemoryMiB, "memory", 0, "guest memory, `MIB` (default: the bundle's)")
	f.StringVar(&o.Restart, "restart", "", "restart `POLICY` of a Pod: Always, OnFailure or Never (default: the cluster's, Always)")
	f.StringArrayVar(&disks, "disk", nil, "attach the raw block volume of a claim, `SERIAL=CLAIM` (repeatable)")
	f.StringVar(&o.Platform, "platform", kubernetes.PlatformSE, "`PLATFORM` of its nodes: se, or emulated, which protects nothing")
	f.StringVar(&o.RuntimeClass, "runtime-class", kubernetes.RuntimeClass, "`NAME` of the RuntimeClass")
	flags.addAccess(cmd)
	return cmd
}

// workload is what a manifest says that Kubernetes has to know.
func workload(m *bundle.Manifest) manifest.Workload {
	w := manifest.Workload{Name: m.Name, ImageID: m.Image.ID, Identity: m.Identity, MemoryMiB: m.MemoryMiB}
	for _, s := range m.KeySlots {
		w.HostKeys = append(w.HostKeys, s.HostKeyHash)
	}
	return w
}
