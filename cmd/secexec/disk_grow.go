package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/owner/buildfile"
	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/rootdisk/luks2"
)

func newDiskGrow() *cobra.Command {
	var size string
	cmd := &cobra.Command{
		Use:   "grow DISK --size [+]SIZE",
		Short: "Make a disk larger",
		Long: `Grow makes a raw disk larger, as qemu-img resize does, and its LUKS2 header say
so. The new part takes no room before it is written to. No key is needed.

The file system in it grows when a guest boots whose plan says so (root.grow and
volumes[].grow in secexec.yaml), or by the owner:

  cryptsetup open --key-file FILE DISK NAME     then resize2fs /dev/mapper/NAME

A guest that is stopped has its disks in hostagent's state folder, as
guests/NAME/root.img. A disk in a bundle no longer fits the bundle's manifest:
build with a larger size instead.`,
		Example: `  secexec disk grow root.img --size 20G
  secexec disk grow /var/lib/secexec/guests/hello/root.img --size +10G`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, more := strings.CutPrefix(size, "+")
			n, err := buildfile.ParseSize(number)
			if err != nil {
				return usageError{fmt.Errorf("--size: %w", err)}
			}
			disk, err := os.OpenFile(args[0], os.O_RDWR|syscall.O_NONBLOCK, 0) // no wait for a pipe's reader
			if err != nil {
				return fmt.Errorf("open disk: %w", err)
			}
			defer disk.Close()
			info, err := disk.Stat()
			if err == nil && !info.Mode().IsRegular() {
				err = errors.New("it is no regular file")
			}
			if err != nil {
				return fmt.Errorf("open disk %s: %w", args[0], err)
			}
			total := int64(n)
			if more {
				total += info.Size()
			}
			payload, err := rootdisk.Grow(disk, total)
			if errors.Is(err, luks2.ErrHeader) {
				return fmt.Errorf("grow %s: %w: only raw disks with a LUKS2 header grow so; others by qemu-img resize", args[0], err)
			}
			if err != nil {
				return fmt.Errorf("grow %s: %w", args[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, payload %s\n", args[0], mib(total), mib(payload))
			return nil
		},
	}
	cmd.Flags().StringVar(&size, "size", "", "the disk's new `SIZE`, such as 20G, or with + how much to add")
	_ = cmd.MarkFlagRequired("size")
	return cmd
}
