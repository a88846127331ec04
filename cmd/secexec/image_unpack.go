package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/ultravisor"
)

func newImageUnpack() *cobra.Command {
	var keyFile, output string
	cmd := &cobra.Command{
		Use:   "unpack IMAGE --host-private-key FILE -o DIR",
		Short: "Open an image as firmware does, with an emulated host's private key",
		Long: `Unpack checks an image as the ultravisor does and writes its parts: kernel,
initrd (if there is one) and cmdline. It needs a host's private key, which only
an emulated host has.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readSmall(keyFile, hostkey.MaxSize)
			if err != nil {
				return fmt.Errorf("read host private key: %w", err)
			}
			defer clear(text)
			host, err := hostkey.ParsePrivate(text)
			if err != nil {
				return fmt.Errorf("%s: %w", keyFile, err)
			}
			f, size, err := openRegular(args[0])
			if err != nil {
				return fmt.Errorf("open image: %w", err)
			}
			defer f.Close()
			dir, err := outfile.CreateDir(output, 0o700)
			if err != nil {
				return err
			}
			defer dir.Abort()
			u, err := ultravisor.OpenFile(f, size, host)
			if err != nil {
				return fmt.Errorf("unpack %s: %w", args[0], err)
			}
			defer u.Wipe()
			for _, part := range []struct {
				name string
				get  func() (io.Reader, int64)
			}{{"kernel", u.Kernel}, {"initrd", u.Initrd}, {"cmdline", u.Cmdline}} {
				r, n := part.get()
				if n == 0 && part.name == "initrd" {
					continue
				}
				if err := dir.CopyFile(part.name, r, 0o600); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s/%s: %d bytes\n", output, part.name, n)
			}
			return dir.Commit()
		},
	}
	cmd.Flags().StringVar(&keyFile, "host-private-key", "", "host's private key in PEM")
	cmd.Flags().StringVarP(&output, "output", "o", "", "folder to make")
	_ = cmd.MarkFlagRequired("host-private-key")
	_ = cmd.MarkFlagRequired("output")
	return cmd
}
