package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/secret"
)

func newDisk() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disk",
		Short: "Make and look at encrypted root disks",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDiskCreate(), newDiskInfo())
	return cmd
}

func newDiskCreate() *cobra.Command {
	var source, output, volumeKey, keyFile string
	var size byteSize
	cmd := &cobra.Command{
		Use:   "create --root DIR|TAR --key-file FILE -o DISK",
		Short: "Encrypt a folder or tar archive as a root disk, without root rights",
		Long: `Create makes an ext4 file system in a dm-crypt volume with a LUKS2 header. The
key file opens its key slot, as in cryptsetup open --key-file; it is made if it
does not exist.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := rootdisk.Options{Source: source, Size: int64(size)}
			newKey, err := keyFileOrNew(keyFile, &o.Passphrase)
			if err != nil {
				return err
			}
			defer newKey.Abort()
			defer o.Passphrase.Wipe()
			if volumeKey != "" {
				if o.Key, err = readKey(volumeKey, rootdisk.KeySize); err != nil {
					return err
				}
				defer o.Key.Wipe()
			}
			v, err := rootdisk.Create(cmd.Context(), output, o)
			if err != nil {
				return err
			}
			if err := newKey.Commit(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %d entries, UUID %x-%x-%x-%x-%x\n", output, mib(v.Offset+v.Size), v.Entries,
				v.ID[:4], v.ID[4:6], v.ID[6:8], v.ID[8:10], v.ID[10:])
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&source, "root", "", "root file system: a folder or a tar archive (plain, gzip, xz, zstd)")
	f.Var(&size, "root-size", "size of the file system, such as 2G (default: content and head-room)")
	f.StringVar(&keyFile, "key-file", "", "key file for the LUKS2 key slot")
	f.StringVar(&volumeKey, "volume-key-file", "", "file with the volume key, 64 bytes (default: random)")
	f.StringVarP(&output, "output", "o", "", "disk to make")
	for _, name := range []string{"root", "key-file", "output"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

// pendingFile is a file that Commit puts in place, or nothing.
type pendingFile struct{ f *outfile.File }

func (p pendingFile) Commit() error {
	if p.f == nil {
		return nil
	}
	return p.f.Commit()
}

func (p pendingFile) Abort() {
	if p.f != nil {
		p.f.Abort()
	}
}

// keyFileOrNew reads a key file, or makes one of 64 random bytes.
func keyFileOrNew(path string, key *secret.Bytes) (pendingFile, error) {
	f, err := outfile.Create(path, 0o600, false)
	if errors.Is(err, outfile.ErrExists) {
		data, err := readSmall(path, 8<<20) // cryptsetup's own bound
		if err == nil && len(data) == 0 {
			err = fmt.Errorf("%s is empty", path)
		}
		if err != nil {
			return pendingFile{}, fmt.Errorf("read key file: %w", err)
		}
		*key = data
		return pendingFile{}, nil
	}
	if err != nil {
		return pendingFile{}, err
	}
	*key = secret.Random(64)
	if _, err := f.Write(*key); err != nil {
		f.Abort()
		return pendingFile{}, fmt.Errorf("write key file: %w", err)
	}
	return pendingFile{f}, nil
}

func newDiskInfo() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info DISK",
		Short: "Show a disk's LUKS2 header",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, size, err := openRegular(args[0])
			if err != nil {
				return fmt.Errorf("open disk: %w", err)
			}
			defer f.Close()
			h, err := rootdisk.Inspect(f)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if asJSON {
				return printJSON(cmd, map[string]any{
					"size": size, "uuid": h.UUID, "encryption": h.Encryption, "sector_size": h.SectorSize,
					"payload_offset": h.Offset, "payload_size": h.Size, "keyslots": h.Keyslots,
				})
			}
			return term.Fields(cmd.OutOrStdout(),
				"size", fmt.Sprintf("%d bytes (%s)", size, mib(size)), "UUID", h.UUID,
				"encryption", fmt.Sprintf("%s, sectors of %d bytes", h.Encryption, h.SectorSize),
				"payload", fmt.Sprintf("%d bytes at %d", h.Size, h.Offset), "key slots", fmt.Sprint(h.Keyslots))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
