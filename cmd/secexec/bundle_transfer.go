package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/bundle/artifact"
	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/outfile"
)

// transferFlags are the flags of push and pull, named as podman names them.
type transferFlags struct {
	access    artifact.Access
	tlsVerify bool
	parallel  int
}

func (t *transferFlags) add(cmd *cobra.Command) {
	t.addAccess(cmd)
	cmd.Flags().IntVar(&t.parallel, "parallel", 4, "chunks that are transferred at a time")
}

// addAccess adds the flags that say how to reach a registry.
func (t *transferFlags) addAccess(cmd *cobra.Command) {
	t.parallel = 1
	f := cmd.Flags()
	f.StringVar(&t.access.AuthFile, "authfile", "", "file with registry credentials (default: podman's, then docker's)")
	f.BoolVar(&t.tlsVerify, "tls-verify", true, "require HTTPS and verify certificates")
	f.BoolVar(&t.access.PlainHTTP, "plain-http", false, "talk plain HTTP")
}

func (t *transferFlags) open(cmd *cobra.Command, reference string, write bool) (*artifact.Place, error) {
	if t.parallel < 1 || t.parallel > 64 {
		return nil, usageError{fmt.Errorf("--parallel %d is not in 1..64", t.parallel)}
	}
	t.access.NoVerify = !t.tlsVerify
	place, err := artifact.Open(cmd.Context(), reference, t.access, write)
	if errors.Is(err, artifact.ErrReference) {
		return nil, usageError{err}
	}
	return place, err
}

func newBundlePush() *cobra.Command {
	var flags transferFlags
	var format string
	cmd := &cobra.Command{
		Use:   "push BUNDLE REFERENCE",
		Short: "Push a bundle to a registry, an OCI layout folder or an archive",
		Long: `Push brings a bundle to HOST[:PORT]/REPOSITORY[:TAG] in a registry, to
oci:FOLDER[:TAG], or to the tar archive oci-archive:FILE[:TAG].

--format artifact makes an OCI artifact, for hostagents: parts go in chunks of
16 MiB or more, several at a time, and chunks that the other side has are left out.

--format image makes an ordinary container image for linux/s390x, for containerd
and Kubernetes with the runtime secexec: one layer, in whose root are the files of
the bundle. The layer is not compressed, because encrypted disks don't become
smaller. It too goes in pieces of 16 MiB, to registries that take pieces.

A push that was interrupted goes on where it stopped; an image's only if the
registry still has its pieces. The tag is set when all is there. The same bundle
makes the same bytes. Neither form holds a secret.`,
		Example: `  secexec bundle push hello registry.example.com/team/hello:1
  secexec bundle push --format image hello registry.example.com/team/hello:1
  secexec bundle push --format image hello oci-archive:hello.tar:example.com/hello:1`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "artifact" && format != "image" {
				return usageError{fmt.Errorf("--format %q: it is artifact or image", format)}
			}
			b, err := bundle.Open(args[0])
			if err != nil {
				return err
			}
			defer b.Close()
			to, err := flags.open(cmd, args[1], true)
			if err != nil {
				return err
			}
			progress := term.NewProgress(cmd.ErrOrStderr(), "push")
			sum, err := artifact.Push(cmd.Context(), b, to, artifact.Options{
				Image: format == "image", Parallel: flags.parallel, Step: func(s artifact.Step) { progress.Set(s.Done, s.Total) },
			})
			progress.End()
			if err != nil {
				return err
			}
			return showTransfer(cmd, args[1], sum, "were there")
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVarP(&format, "format", "f", "artifact", "artifact, for hostagents, or image, for containerd and Kubernetes")
	return cmd
}

func newBundlePull() *cobra.Command {
	var flags transferFlags
	var output string
	var hosts []string
	var update bool
	cmd := &cobra.Command{
		Use:   "pull REFERENCE -o BUNDLE",
		Short: "Pull a bundle from a registry, an OCI layout folder or an archive",
		Long: `Pull makes a bundle folder of what push made, in either form, also after other
tools compressed a container image's layer. All digests are checked; the
folder appears complete or not at all. A pull that was interrupted keeps what
came in a hidden folder beside the output, and the same command fetches the rest.

Where a tag holds several bundles, --host-key-document chooses the one that this
host can start.`,
		Example: `  secexec bundle pull registry.example.com/team/hello:1 -o hello
  secexec bundle pull registry.example.com/team/hello:1 -k HKD-8562-1234567.crt -o hello --update`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			hashes, err := hostHashes(cmd, hosts)
			if err != nil {
				return err
			}
			from, err := flags.open(cmd, args[0], false)
			if err != nil {
				return err
			}
			progress := term.NewProgress(cmd.ErrOrStderr(), "pull")
			o := artifact.Options{
				Parallel: flags.parallel, Hosts: hashes, Step: func(s artifact.Step) { progress.Set(s.Done, s.Total) },
			}
			if update {
				o.Existing = output
			}
			sum, err := artifact.Pull(cmd.Context(), from, output, o)
			progress.End()
			if errors.Is(err, outfile.ErrExists) {
				return fmt.Errorf("%w, or replace it by --update", err)
			}
			if err != nil {
				return err
			}
			return showTransfer(cmd, output, sum, "were here")
		},
	}
	flags.add(cmd)
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "bundle folder to make")
	f.BoolVar(&update, "update", false, "replace the folder if it exists, and fetch only what changed")
	f.StringArrayVarP(&hosts, "host-key-document", "k", nil, "host key document, or its hash in hex, of the host that is to run it (repeatable)")
	_ = cmd.MarkFlagRequired("output")
	return cmd
}

// openBundle opens a bundle that is a folder, or elsewhere by a reference with a
// transport (docker://, oci:, oci-archive:), which it pulls for as long as done
// is not called.
func (t *transferFlags) openBundle(cmd *cobra.Command, name string) (b *bundle.Bundle, done func(), err error) {
	remove, dir := func() {}, name
	if isReference(name) {
		from, err := t.open(cmd, name, false)
		if err != nil {
			return nil, nil, err
		}
		tmp, err := os.MkdirTemp("", "secexec-*")
		if err != nil {
			return nil, nil, fmt.Errorf("make a folder for the bundle: %w", err)
		}
		remove = func() { _ = os.RemoveAll(tmp) }
		dir = filepath.Join(tmp, "bundle")
		progress := term.NewProgress(cmd.ErrOrStderr(), "pull")
		_, err = artifact.Pull(cmd.Context(), from, dir, artifact.Options{
			Parallel: t.parallel, Step: func(s artifact.Step) { progress.Set(s.Done, s.Total) },
		})
		progress.End()
		if err != nil {
			remove()
			return nil, nil, err
		}
	}
	if b, err = bundle.Open(dir); err != nil {
		remove()
		return nil, nil, err
	}
	return b, func() { b.Close(); remove() }, nil
}

// manifest reads the bundle.json of a bundle that is a folder or a reference.
func (t *transferFlags) manifest(cmd *cobra.Command, name string) (*bundle.Manifest, error) {
	if isReference(name) {
		from, err := t.open(cmd, name, false)
		if err != nil {
			return nil, err
		}
		return artifact.ReadManifest(cmd.Context(), from, artifact.Options{})
	}
	b, err := bundle.Open(name)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return &b.Manifest, nil
}

// isReference tells a reference from the path of a folder: by its transport,
// without which it could be either.
func isReference(name string) bool {
	for _, transport := range []string{"docker://", "oci:", "oci-archive:"} {
		if strings.HasPrefix(name, transport) {
			return true
		}
	}
	return false
}

func showTransfer(cmd *cobra.Command, where string, sum *artifact.Summary, there string) error {
	return term.Fields(cmd.OutOrStdout(),
		"bundle", fmt.Sprintf("%s, %s", sum.Manifest.Name, where), "digest", sum.Digest,
		"moved", fmt.Sprintf("%s of %s; the others %s", mib(sum.Moved), mib(sum.Total), there))
}
