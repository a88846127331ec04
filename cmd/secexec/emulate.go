package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/hostkey/hostkeytest"
)

func newEmulate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "emulate",
		Short: "Emulated hosts, for development and tests: they protect nothing",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "init DIR",
		Short:   "Make an emulated host: its key pair, host key document, and a test PKI in IBM's place",
		Example: `  secexec emulate init host`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := filepath.Clean(args[0])
			if _, err := hostkeytest.WriteHost(dir, filepath.Base(dir)); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: emulated host; seal for it with\n  -k %[1]s/host.crt -C %[1]s/ca/signing.crt -C %[1]s/ca/inter-ca.crt --root-ca %[1]s/ca/root-ca.crt\n", dir)
			return nil
		},
	})
	return cmd
}
