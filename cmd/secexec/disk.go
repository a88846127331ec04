package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/rootdisk/luks2"
)

func newDisk() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disk",
		Short: "Make, look at, open and grow encrypted root disks",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDiskCreate(), newDiskInfo(), newDiskOpen(), newDiskGrow())
	return cmd
}

// errCutOff says that a file has a LUKS2 header and not all of what follows.
var errCutOff = errors.New("it ends before its payload does: it was cut off, or is a copy of the header alone")

func newDiskInfo() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "info DISK",
		Short:   "Show a disk's LUKS2 header",
		Example: `  secexec disk info root.img`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, size, err := openRegular(args[0])
			if err != nil {
				return fmt.Errorf("open disk: %w", err)
			}
			defer f.Close()
			h, err := luks2.Parse(f)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if asJSON {
				return printJSON(cmd, map[string]any{
					"size": size, "uuid": h.UUID, "label": h.Label, "sequence": h.Sequence, "header_size": h.Size, "damaged_copy": h.Damaged,
					"encryption": h.Cipher, "sector_size": h.Sector, "integrity": h.Integrity, "payload_offset": h.Offset, "payload_size": h.Payload,
					"keyslots": h.Keyslots, "digests": h.Digests, "tokens": h.Tokens,
				})
			}
			payload := "up to the end"
			if h.Payload != 0 {
				payload = fmt.Sprintf("%d bytes", h.Payload)
			}
			sectors := fmt.Sprintf("%s, sectors of %d bytes", h.Cipher, h.Sector)
			if h.Integrity != "" {
				sectors += ", integrity " + h.Integrity
			}
			fields := []string{
				"size", fmt.Sprintf("%d bytes (%s)", size, mib(size)), "UUID", h.UUID, "label", h.Label,
				"encryption", sectors,
				"payload", fmt.Sprintf("%s at %d", payload, h.Offset),
				"header", fmt.Sprintf("two copies of %d bytes, change %d", h.Size, h.Sequence),
			}
			if h.Damaged != "" {
				fields = append(fields, "damage", "the "+h.Damaged+" copy of the header (cryptsetup repair makes it from the other)")
			}
			if size < h.Offset+max(1, h.Payload) {
				fields = append(fields, "damage", errCutOff.Error())
			}
			for _, k := range h.Keyslots {
				fields = append(fields, fmt.Sprintf("key slot %d", k.ID), describeSlot(k))
			}
			for _, d := range h.Digests {
				fields = append(fields, fmt.Sprintf("digest %d", d.ID), fmt.Sprintf("%s-%s, %d iterations", d.Type, d.Hash, d.Iterations))
			}
			return term.Fields(cmd.OutOrStdout(), fields...)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func describeSlot(k luks2.Keyslot) string {
	cost := fmt.Sprintf("%d KiB, %d passes, %d lanes", k.Memory, k.Time, k.CPUs)
	if k.KDF == "pbkdf2" {
		cost = fmt.Sprintf("%s, %d iterations", k.KDFHash, k.Iterations)
	}
	return fmt.Sprintf("%s (%s), key of %d bits in %s, area of %d bytes at %d", k.KDF, cost, k.KeySize*8, k.Encryption, k.Size, k.Offset)
}
