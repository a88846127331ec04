package main

import (
	"errors"
	"fmt"

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
	f := cmd.Flags()
	f.StringVar(&t.access.AuthFile, "authfile", "", "file with registry credentials (default: podman's, then docker's)")
	f.BoolVar(&t.tlsVerify, "tls-verify", true, "require HTTPS and verify certificates")
	f.BoolVar(&t.access.PlainHTTP, "plain-http", false, "talk plain HTTP")
	f.IntVar(&t.parallel, "parallel", 4, "chunks that are transferred at a time")
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
	cmd := &cobra.Command{
		Use:   "push BUNDLE REFERENCE",
		Short: "Push a bundle to a registry or an OCI layout folder",
		Long: `Push makes an OCI artifact of a bundle: HOST[:PORT]/REPOSITORY[:TAG] in a
registry, or oci:FOLDER[:TAG]. Parts go in chunks of 16 MiB or more; what the
other side has is left out, so a push that was interrupted goes on where it
stopped. The tag is set when all is there.`,
		Example: `  secexec bundle push hello registry.example.com/team/hello:1
  secexec bundle push hello oci:layout:1`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
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
				Parallel: flags.parallel, Step: func(s artifact.Step) { progress.Set(s.Done, s.Total) },
			})
			progress.End()
			if err != nil {
				return err
			}
			return showTransfer(cmd, args[1], sum, "were there")
		},
	}
	flags.add(cmd)
	return cmd
}

func newBundlePull() *cobra.Command {
	var flags transferFlags
	var output string
	var hosts []string
	var update bool
	cmd := &cobra.Command{
		Use:   "pull REFERENCE -o BUNDLE",
		Short: "Pull a bundle from a registry or an OCI layout folder",
		Long: `Pull makes a bundle folder of what push made. All digests are checked; the
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

func showTransfer(cmd *cobra.Command, where string, sum *artifact.Summary, there string) error {
	return term.Fields(cmd.OutOrStdout(),
		"bundle", fmt.Sprintf("%s, %s", sum.Manifest.Name, where), "digest", sum.Digest,
		"moved", fmt.Sprintf("%s of %s; the others %s", mib(sum.Moved), mib(sum.Total), there))
}
