package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/seimage"
	"github.com/secexec/secexec/ultravisor"
)

func newImageUnpack() *cobra.Command {
	var keyFile, hdrKey, output, part string
	cmd := &cobra.Command{
		Use:   "unpack IMAGE (--hdr-key FILE | --host-private-key FILE) (-o DIR | --part NAME)",
		Short: "Give back an image's kernel, initrd and command line",
		Long: `Unpack checks all of an image as the ultravisor does and writes its parts:
kernel, initrd (if there is one) and cmdline; - is standard input. The owner
opens it with the header protection key that create was given. A host's private
key is something that only an emulated host has.

With --part one part goes to standard output, or to the file given by -o.`,
		Example: `  secexec image unpack boot.seimg --hdr-key hdr.key -o parts
  secexec image unpack boot.seimg --hdr-key hdr.key --part cmdline`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case (keyFile == "") == (hdrKey == ""):
				return usageError{errors.New("give the owner's --hdr-key, or an emulated host's --host-private-key")}
			case part == "" && output == "":
				return usageError{errors.New("give a folder to make by -o, or --part kernel, initrd or cmdline")}
			case part != "" && part != "kernel" && part != "initrd" && part != "cmdline":
				return usageError{fmt.Errorf("no part %q: kernel, initrd or cmdline", part)}
			}
			f, size, err := openImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			u, err := openWith(f, size, hdrKey, keyFile)
			if err != nil {
				return fmt.Errorf("unpack %s: %w", args[0], err)
			}
			defer u.Wipe()
			if part != "" {
				return writePart(cmd, u, part, output)
			}
			return writeParts(cmd, u, output)
		},
	}
	cmd.Flags().StringVar(&hdrKey, "hdr-key", "", "file with the header protection key")
	cmd.Flags().StringVar(&keyFile, "host-private-key", "", "host's private key in PEM")
	cmd.Flags().StringVarP(&output, "output", "o", "", "folder to make; with --part: file")
	cmd.Flags().StringVar(&part, "part", "", "only this part: kernel, initrd or cmdline")
	return cmd
}

// openWith verifies an image with the owner's key or a host's.
func openWith(f io.ReaderAt, size int64, hdrKey, keyFile string) (*ultravisor.Unpacked, error) {
	if hdrKey != "" {
		key, err := readKey(hdrKey, seimage.HeaderKeySize)
		if err != nil {
			return nil, err
		}
		defer key.Wipe()
		return ultravisor.OpenFileAsOwner(f, size, key)
	}
	text, err := readSmall(keyFile, hostkey.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("read host private key: %w", err)
	}
	defer clear(text)
	host, err := hostkey.ParsePrivate(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	return ultravisor.OpenFile(f, size, host)
}

func partOf(u *ultravisor.Unpacked, name string) (io.Reader, int64) {
	switch name {
	case "kernel":
		return u.Kernel()
	case "initrd":
		return u.Initrd()
	}
	return u.Cmdline()
}

func writeParts(cmd *cobra.Command, u *ultravisor.Unpacked, output string) error {
	dir, err := outfile.CreateDir(output, 0o700)
	if err != nil {
		return err
	}
	defer dir.Abort()
	var said bytes.Buffer
	for _, name := range []string{"kernel", "initrd", "cmdline"} {
		r, n := partOf(u, name)
		if n == 0 && name == "initrd" {
			continue
		}
		if err := dir.CopyFile(name, r, 0o600); err != nil {
			return err
		}
		fmt.Fprintf(&said, "%s/%s: %d bytes\n", output, name, n)
	}
	if err := dir.Commit(); err != nil {
		return err
	}
	_, err = said.WriteTo(cmd.OutOrStdout())
	return err
}

func writePart(cmd *cobra.Command, u *ultravisor.Unpacked, name, output string) error {
	r, n := partOf(u, name)
	if n == 0 && name == "initrd" {
		return errors.New("unpack initrd: the image has none")
	}
	if output == "" || output == "-" {
		_, err := io.Copy(cmd.OutOrStdout(), r)
		return err
	}
	out, err := outfile.Create(output, os.FileMode(0o600), false)
	if err != nil {
		return err
	}
	defer out.Abort()
	if _, err := io.Copy(out, r); err != nil {
		return err
	}
	return out.Commit()
}
