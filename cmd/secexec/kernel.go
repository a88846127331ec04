package main

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/initrd"
	"github.com/secexec/secexec/kernel"
)

func newKernel() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kernel",
		Short: "Look at kernels that guests could boot",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKernelInfo())
	return cmd
}

func newKernelInfo() *cobra.Command {
	var src kernel.Source
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info PATH...",
		Short: "Show which kernel is in a file, folder or packages, and whether it can be an SE guest",
		Long: `Info looks for an s390x kernel in a raw image, a folder (an installed system of
any distribution, its /boot, an unpacked package) or in Debian or RPM packages,
and shows its release, where its image, modules and configuration are, and
whether it can be a Secure Execution guest.`,
		Example: `  secexec kernel info /boot
  secexec kernel info linux-image-6.12.0-1-s390x_6.12.6-1_s390x.deb`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			src.Kernel = args
			k, err := kernel.Open(cmd.Context(), src)
			if err != nil {
				return err
			}
			defer k.Close()
			modules := 0
			if k.Modules != nil {
				tree, err := initrd.OpenTree(k.Modules, k.Release)
				if err != nil {
					return err
				}
				modules = tree.Len()
			}
			guest, why := k.Guest()
			if asJSON {
				return printJSON(cmd, map[string]any{
					"release": k.Release, "image": k.ImageFrom, "imageSize": k.Image.Size(),
					"modules": k.ModulesFrom, "moduleCount": modules, "config": k.ConfigFrom,
					"seGuest": guest.String(), "seGuestReason": why,
				})
			}
			trees := "none"
			if k.Modules != nil {
				trees = fmt.Sprintf("%s (%d)", k.ModulesFrom, modules)
			}
			return term.Fields(cmd.OutOrStdout(),
				"release", cmp.Or(k.Release, "unknown"),
				"image", fmt.Sprintf("%s (%s)", k.ImageFrom, mib(k.Image.Size())),
				"modules", trees,
				"config", cmp.Or(k.ConfigFrom, "none"),
				"SE guest", fmt.Sprintf("%s: %s", guest, why))
		},
	}
	cmd.Flags().StringSliceVar(&src.Modules, "modules", nil, "folder or packages with the modules (default: where the kernel is)")
	cmd.Flags().StringVar(&src.Release, "release", "", "release that picks one of several kernels, as uname -r prints it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
