package main

import (
	"crypto/ecdsa"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage"
)

func newImageCreate() *cobra.Command {
	var hosts hostFlags
	var kernel, ramdisk, parmfile, output string
	var hdrKey, imageKey, cck string
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "create -i KERNEL [-r INITRD] [-p PARMFILE] -k DOC... -o IMAGE",
		Short: "Seal kernel, initrd and command line for hosts, as pvimg create does",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := hosts.load(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			var spec seimage.Spec
			for _, doc := range docs {
				spec.Hosts = append(spec.Hosts, (*ecdsa.PublicKey)(doc.Key))
			}
			for _, key := range []struct {
				path string
				to   *secret.Bytes
				size int
			}{{hdrKey, &spec.HeaderKey, seimage.HeaderKeySize}, {imageKey, &spec.ImageKey, seimage.ImageKeySize}, {cck, &spec.CommKey, seimage.CommKeySize}} {
				if key.path == "" {
					continue
				}
				if *key.to, err = readKey(key.path, key.size); err != nil {
					return err
				}
				defer key.to.Wipe()
			}
			if parmfile != "" {
				if spec.Cmdline, err = readSmall(parmfile, 64<<10); err != nil {
					return fmt.Errorf("read kernel command line: %w", err)
				}
			}
			for _, part := range []struct {
				name, path string
				to         *seimage.Source
			}{{"kernel", kernel, &spec.Kernel}, {"initrd", ramdisk, &spec.Initrd}} {
				if part.path == "" {
					continue
				}
				f, size, err := openRegular(part.path)
				if err != nil {
					return fmt.Errorf("open %s: %w", part.name, err)
				}
				defer f.Close()
				*part.to = seimage.Source{R: f, Size: size}
			}
			out, err := outfile.Create(output, 0o644, overwrite)
			if err != nil {
				return err
			}
			defer out.Abort()
			s, err := seimage.Create(cmd.Context(), out, spec)
			if err != nil {
				return err
			}
			if err := out.Commit(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %d key slots\n", output, mib(s.Size), len(s.Header.Slots))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&kernel, "kernel", "i", "", "s390x Linux image")
	f.StringVarP(&ramdisk, "ramdisk", "r", "", "initrd")
	f.StringVarP(&parmfile, "parmfile", "p", "", "file with the kernel command line")
	f.StringVarP(&output, "output", "o", "", "image to make")
	f.StringVar(&hdrKey, "hdr-key", "", "file with the header protection key, 32 bytes (default: random, kept nowhere)")
	f.StringVar(&imageKey, "image-key", "", "file with the image key, 64 bytes (default: random)")
	f.StringVar(&cck, "cck", "", "file with the customer communication key, 32 bytes (default: random)")
	f.BoolVar(&overwrite, "overwrite", false, "replace an existing image")
	hosts.add(cmd)
	for _, name := range []string{"kernel", "output"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}
