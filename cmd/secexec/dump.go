package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/outfile"
)

func newDump() *cobra.Command {
	var agent agentFlags
	var replace bool
	cmd := &cobra.Command{
		Use:   "dump GUEST FILE",
		Short: "Write an encrypted dump of a running guest whose image allows it",
		Long: `Dump writes a dump of the guest's memory and CPUs that only the owner can read:
firmware encrypts it with the image's customer communication key. The guest
stands still meanwhile and then goes on, also if the dump fails or is
interrupted.

The image must have been sealed with --enable-dump, and the node must have
protected dumps (see secexec node check). The file appears when it is complete,
for its owner alone. The workload's owner opens it with s390-tools' zgetdump and
the communication key, cck.key among the secrets:

  zgetdump --key cck.key FILE > vmcore`,
		Example: "  secexec dump web /var/tmp/web.elf",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := outfile.Create(args[1], 0o600, replace)
			if err != nil {
				return err
			}
			defer out.Abort()
			return agent.with(cmd.Context(), func(c *client.Client) error {
				bar := term.NewProgress(cmd.ErrOrStderr(), "dump")
				err := c.Dump(cmd.Context(), args[0], out, func(done, total uint64) { bar.Set(int64(done), int64(total)) })
				bar.End()
				if err != nil {
					return err
				}
				info, err := out.Stat()
				if err != nil {
					return fmt.Errorf("write dump: %w", err)
				}
				if err := qemu.CheckDump(out, info.Size()); errors.Is(err, qemu.ErrPlainDump) {
					return fault.New(fault.NoDump, "dump guest %s: %w", args[0], err)
				} else if err != nil {
					return err
				}
				if err := out.Commit(); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: encrypted dump of guest %s, %d MiB\n", args[1], args[0], info.Size()>>20)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&replace, "overwrite", false, "replace an existing file")
	agent.add(cmd)
	return cmd
}
