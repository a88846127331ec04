package main

import "github.com/spf13/cobra"

func newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Make and look at SE boot images",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImageCreate(), newImageRetarget(), newImageInfo(), newImageTest(), newImageUnpack())
	return cmd
}
