package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostagent/libvirt"
	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/seimage"
)

func newBundle() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Look at bundles, change their hosts, move them through registries",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBundleShow(), newBundleVerify(), newBundleRetarget(), newBundlePush(), newBundlePull())
	return cmd
}

func newBundleShow() *cobra.Command {
	var format formatFlags
	var flags transferFlags
	cmd := &cobra.Command{
		Use:   "show BUNDLE|REFERENCE",
		Short: "Show a bundle's manifest",
		Long: `Show prints what a bundle holds; with --format libvirt the XML of a domain that
runs it, for a provider without a hostagent. The domain's disks are the bundle's
own files, which the guest writes to: show a copy. Blank disks are no files of
the bundle: make them there by truncate --size SIZE FILE.

A bundle that is not a folder is named with its transport: docker://HOST/..., oci:
or oci-archive:. Of it only the manifest is fetched.`,
		Example: `  secexec bundle show hello
  secexec bundle show docker://registry.example.com/team/hello:1
  secexec bundle show /var/lib/libvirt/images/hello --format libvirt`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := flags.manifest(cmd, args[0])
			if err != nil {
				return err
			}
			pairs := []string{
				"name", m.Name, "image id", m.Image.ID, "identity", m.Identity, "memory", fmt.Sprintf("%d MiB", m.MemoryMiB),
				"image", fmt.Sprintf("%s, %s", m.Image.File, mib(m.Image.Size)),
			}
			for _, d := range m.Disks {
				mode := ""
				switch {
				case d.ReadOnly:
					mode = ", read-only"
				case d.Blank():
					mode = ", blank: no file of the bundle, made where the guest runs"
				}
				pairs = append(pairs, "disk", fmt.Sprintf("%s, %s, serial number %s%s", d.File, mib(d.Size), d.Serial, mode))
			}
			for _, s := range m.KeySlots {
				pairs = append(pairs, "key slot", s.HostKeyHash+" "+s.Subject)
			}
			return format.print(cmd, func() error { return term.Fields(cmd.OutOrStdout(), pairs...) }, m,
				func() (*libvirt.Guest, error) {
					if isReference(args[0]) {
						return nil, usageError{errors.New("--format libvirt is for a bundle folder: the domain's disks are its files")}
					}
					return bundleDomain(args[0], m)
				})
		},
	}
	format.add(cmd)
	flags.addAccess(cmd)
	return cmd
}

// errBundle says that a bundle's parts don't belong together.
var errBundle = errors.New("bundle does not verify")

func newBundleVerify() *cobra.Command {
	var identity string
	var flags transferFlags
	cmd := &cobra.Command{
		Use:   "verify BUNDLE|REFERENCE",
		Short: "Check a bundle's digests, and that its image has the key slots that its manifest names",
		Long: `Verify reads every part and checks its digest, and that the key slots of the SE
header are those of the manifest. With --identity, the public key from the
owner's secrets, also that readiness reports are to be checked with that key.

The manifest is not signed: verify finds damage, not an adversary. What the
guest trusts is in the image, which protects itself.

A bundle that is not a folder is named with its transport, docker://HOST/..., oci:
or oci-archive:, and pulled to a temporary folder, which TMPDIR names.`,
		Example: `  secexec bundle verify hello
  secexec bundle verify docker://registry.example.com/team/hello:1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, done, err := flags.openBundle(cmd, args[0])
			if err != nil {
				return err
			}
			defer done()
			if identity != "" {
				text, err := readSmall(identity, 4<<10)
				if err != nil {
					return fmt.Errorf("read identity: %w", err)
				}
				key, err := owner.ParseIdentity(text)
				if err != nil {
					return fmt.Errorf("%s: %w", identity, err)
				}
				if hex.EncodeToString(key) != b.Manifest.Identity {
					return fmt.Errorf("verify %s: %w: its identity is %s, not the one of %s", args[0], errBundle, b.Manifest.Identity, identity)
				}
			}
			if err := checkSlots(b); err != nil {
				return fmt.Errorf("verify %s: %w", args[0], err)
			}
			if err := b.Verify(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: all parts are whole, %d key slots as in the image\n", args[0], len(b.Manifest.KeySlots))
			return nil
		},
	}
	cmd.Flags().StringVar(&identity, "identity", "", "the owner's identity.pub")
	flags.add(cmd)
	return cmd
}

// checkSlots compares the manifest's key slots with those of the SE header.
func checkSlots(b *bundle.Bundle) error {
	f, err := b.OpenPart(b.Manifest.Image.Part)
	if err != nil {
		return err
	}
	defer f.Close()
	img, err := seimage.Open(f, b.Manifest.Image.Size)
	if err != nil {
		return err
	}
	var inImage, named []string
	for _, s := range img.Header.Slots {
		inImage = append(inImage, hex.EncodeToString(s.HostHash[:]))
	}
	for _, s := range b.Manifest.KeySlots {
		named = append(named, s.HostKeyHash)
	}
	slices.Sort(inImage)
	slices.Sort(named)
	if !slices.Equal(inImage, named) {
		return fmt.Errorf("%w: the manifest names the key slots %v, the image has %v", errBundle, named, inImage)
	}
	return nil
}

// hostHashes reads host key hashes: of documents, or in hex.
func hostHashes(cmd *cobra.Command, list []string) ([]string, error) {
	var out []string
	for _, text := range list {
		if _, err := hex.DecodeString(text); err == nil && len(text) == 64 {
			if _, err := os.Lstat(text); err != nil {
				out = append(out, text)
				continue
			}
		}
		doc, err := readDocument(text, cmd.ErrOrStderr())
		if err != nil {
			return nil, err
		}
		hash := doc.Hash()
		out = append(out, hex.EncodeToString(hash[:]))
	}
	return out, nil
}
