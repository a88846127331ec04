package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// guestFlags are what run and create say of a guest to be.
type guestFlags struct {
	request hostagentv1.CreateRequest
	devices deviceFlags
}

func (f *guestFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.request.Name, "name", "", "the guest's name (default: the bundle's)")
	flags.Uint32Var(&f.request.MemoryMib, "memory", 0, "guest memory in MiB (default: the bundle's)")
	flags.Uint32Var(&f.request.Cpus, "cpus", 1, "virtual CPUs")
	flags.StringVar(&f.request.Loadparm, "loadparm", "", "entry of the boot menu, for a bundle that boots from its disk (default: its first)")
	f.devices.add(cmd)
}

// of returns the request to create a guest of a bundle.
func (f *guestFlags) of(bundle string) (*hostagentv1.CreateRequest, error) {
	var err error
	if f.request.Bundle, err = filepath.Abs(bundle); err != nil {
		return nil, fmt.Errorf("find bundle: %w", err)
	}
	return &f.request, f.devices.fill(&f.request)
}

func newCreate() *cobra.Command {
	var agent agentFlags
	var flags guestFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "create BUNDLE",
		Short: "Create a guest and don't start it",
		Long: `Create takes over a bundle and prints the guest's name; secexec start starts it.
Disks and networks that are attached to it are looked at now and before each
start, and their files stay where they are: secexec rm does not remove them.`,
		Example: `  secexec create web --disk path=/srv/data.img,serial=data,format=qcow2 --network tap=tap0,queues=2`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := flags.of(args[0])
			if err != nil {
				return err
			}
			return agent.with(cmd.Context(), func(c *client.Client) error {
				g, err := c.Create(cmd.Context(), request)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd, guestJSON(g))
				}
				fmt.Fprintln(cmd.OutOrStdout(), g.Name)
				return nil
			})
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	agent.add(cmd)
	return cmd
}
