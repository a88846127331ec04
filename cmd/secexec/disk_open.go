package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/rootdisk/luks2"
	"github.com/secexec/secexec/secret"
)

func newDiskOpen() *cobra.Command {
	var output, keyFile, passphraseFile, volumeKey string
	cmd := &cobra.Command{
		Use:   "open DISK {--key-file FILE | --passphrase-file FILE | --volume-key-file FILE} -o PLAIN",
		Short: "Decrypt a disk's file system to a file, without root rights",
		Long: `Open decrypts the payload of a LUKS2 disk to a file that only its owner may
read, after the digest in the header has said that the key is right. Zeros
become holes. On a disk with integrity each sector's tag is checked, and what
waits in its journal counts; a changed sector is an error.

Unlike cryptsetup open it maps no device and needs no root rights; the plain
text lies in the file until you remove it. What cryptsetup would do is

  cryptsetup open --key-file FILE DISK NAME     and then mount /dev/mapper/NAME`,
		Example: `  secexec disk open root.img --key-file disk.key -o plain.img`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			disk, _, err := openRegular(args[0])
			if err != nil {
				return fmt.Errorf("open disk: %w", err)
			}
			defer disk.Close()
			var passphrase, key secret.Bytes
			switch {
			case keyFile != "":
				passphrase, err = readKeyFile(keyFile)
			case passphraseFile != "":
				passphrase, err = readPassphrase(cmd, passphraseFile, false)
			default:
				var h *luks2.Header
				if h, err = luks2.Parse(disk); err == nil {
					key, err = readKey(volumeKey, h.KeySize())
				}
			}
			if err != nil {
				return err
			}
			defer passphrase.Wipe()
			defer key.Wipe()
			size, err := rootdisk.Open(cmd.Context(), disk, output, passphrase, key)
			if errors.Is(err, luks2.ErrKey) {
				return fmt.Errorf("%s: %w (the one of %s)", args[0], err, cmp.Or(keyFile, passphraseFile, volumeKey))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", output, mib(size))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&keyFile, "key-file", "", "key file of a key slot")
	f.StringVar(&passphraseFile, "passphrase-file", "", "file with the pass phrase of a key slot, a line feed at its end left out; - reads or asks for it")
	f.StringVar(&volumeKey, "volume-key-file", "", "file with the volume key, 64 bytes, 96 with integrity")
	f.StringVarP(&output, "output", "o", "", "file to make")
	_ = cmd.MarkFlagRequired("output")
	cmd.MarkFlagsOneRequired("key-file", "passphrase-file", "volume-key-file")
	cmd.MarkFlagsMutuallyExclusive("key-file", "passphrase-file", "volume-key-file")
	return cmd
}
