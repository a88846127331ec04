package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage"
)

func newBundleRetarget() *cobra.Command {
	var f retargetFlags
	cmd := &cobra.Command{
		Use:   "retarget BUNDLE --hdr-key FILE [-k DOC...] [--remove DOC|HASH...] [--replace]",
		Short: "Give a bundle's image key slots for other hosts",
		Long: `Retarget does to a bundle's image what image retarget does, and makes the
manifest fit: digest and list of hosts. The header key is header.key among the
owner's secrets. The bundle is replaced in one step; its disks stay as they are.`,
		Example: "  secexec bundle retarget hello --hdr-key hello-secrets/header.key -k HKD-new.crt -C ibm-z-host-key-signing.crt -C DigiCertCA.crt",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			change, docs, err := f.change(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			key, err := readKey(f.hdrKey, seimage.HeaderKeySize)
			if err != nil {
				return err
			}
			defer key.Wipe()
			m, err := retargetBundle(cmd.Context(), args[0], key, change, docs)
			if errors.Is(err, seimage.ErrHeaderTag) {
				return fmt.Errorf("open SE header with %s: %w", f.hdrKey, err)
			} else if err != nil {
				return fmt.Errorf("retarget %s: %w", args[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d key slots\n", args[0], len(m.KeySlots))
			return nil
		},
	}
	f.addChange(cmd)
	once(cmd.Flags())
	return cmd
}

// retargetBundle replaces a bundle by one with another SE header.
func retargetBundle(ctx context.Context, dir string, key secret.Bytes, change seimage.Slots, docs []*hostkey.Document) (*bundle.Manifest, error) {
	b, err := bundle.Open(dir)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	m := b.Manifest
	if m.Boot == bundle.BootDisk {
		return nil, errors.New("it boots from its disk, which has the image too: build with --update, or change a copy of the image by image retarget and put it on the disk by bootdisk replace")
	}
	out, err := outfile.ReplaceDir(dir, 0o755)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	for _, p := range m.Parts()[1:] {
		if err := out.Link(p.File, filepath.Join(dir, p.File)); err != nil {
			return nil, err
		}
	}
	subjects := make(map[string]string)
	for _, s := range m.KeySlots {
		subjects[s.HostKeyHash] = s.Subject
	}
	for _, doc := range docs {
		hash := doc.Hash()
		subjects[hex.EncodeToString(hash[:])] = doc.Subject()
	}
	h, part, err := retargetPart(ctx, b, out, key, change)
	if err != nil {
		return nil, err
	}
	m.Image.Part, m.KeySlots = part, nil
	for _, s := range h.Slots {
		hash := hex.EncodeToString(s.HostHash[:])
		m.KeySlots = append(m.KeySlots, bundle.KeySlot{HostKeyHash: hash, Subject: subjects[hash]})
	}
	text, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	if err := out.WriteFile(bundle.ManifestFile, text, 0o644); err != nil {
		return nil, err
	}
	return &m, out.Commit()
}

// retargetPart copies the image, checking its digest, and changes the copy.
func retargetPart(ctx context.Context, b *bundle.Bundle, out *outfile.Dir, key secret.Bytes, change seimage.Slots) (*seimage.Header, bundle.Part, error) {
	name := b.Manifest.Image.File
	image, err := outfile.Create(out.Join(name), 0o644, false)
	if err != nil {
		return nil, bundle.Part{}, err
	}
	defer image.Abort()
	if err := b.CopyPart(ctx, b.Manifest.Image.Part, image); err != nil {
		return nil, bundle.Part{}, err
	}
	h, err := seimage.Retarget(unhurried{image.File}, b.Manifest.Image.Size, key, change)
	if err != nil {
		return nil, bundle.Part{}, err
	}
	if _, err := image.Seek(0, io.SeekStart); err != nil {
		return nil, bundle.Part{}, fmt.Errorf("read %s: %w", name, err)
	}
	part, err := bundle.Describe(ctx, name, image)
	if err != nil {
		return nil, bundle.Part{}, err
	}
	return h, part, image.Commit()
}
