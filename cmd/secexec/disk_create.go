package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/rootdisk"
	"github.com/secexec/secexec/rootdisk/luks2"
)

func newDiskCreate() *cobra.Command {
	var o rootdisk.Options
	var output, volumeKey, keyFile, passphraseFile, tlsVerify, uuid, mode string
	var size, empty byteSize
	var kdf luks2.KDF
	cmd := &cobra.Command{
		Use:   "create {--root SOURCE | --empty SIZE} {--key-file FILE | --passphrase-file FILE} -o DISK",
		Short: "Encrypt a root file system as a disk, or make an empty data volume, without root rights",
		Long: `Create makes a dm-crypt volume with a LUKS2 header. Key file and pass phrase
each open a key slot of their own, later also by stock cryptsetup:

  cryptsetup open --key-file FILE DISK NAME

SOURCE is one of

  a folder                   files as they are; sockets are left out
  a tar archive              plain, gzip, bzip2, xz or zstd
  a disk or partition image  raw or qcow2; its ext4, xfs or erofs is taken as it is
  docker://NAME              a container image in a registry, for linux/s390x
  oci:DIR[:TAG]              one in a layout folder
  oci-archive:FILE[:TAG]     one in a layout in a tar
  docker-archive:FILE[:NAME] one that docker save wrote

Files become an ext4, or an erofs, which is read-only. Without root rights all in a folder belongs to root;
archives and images keep their owners. All of the disk is written, unless
--sparse leaves what the ext4 does not use as holes: the disk then takes less
room, and shows everybody which of its blocks are in use.

With --mode crypt-integrity each sector has a tag, as cryptsetup luksFormat
--integrity hmac-sha256 gives it: a changed sector is an I/O error to who reads
it. Who opens such a disk needs dm-integrity in the kernel.

With --mode verity dm-verity's hash tree follows the file system. Its root hash is
printed: who has it from elsewhere than the disk checks all of the open disk by

  veritysetup verify /dev/mapper/NAME /dev/mapper/NAME ROOT-HASH --hash-offset=N`,
		Example: `  secexec disk create --root docker://debian:12 --key-file disk.key -o root.img
  secexec disk create --empty 10G --label data --passphrase-file - -o data.img`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Size = int64(size)
			if empty != 0 {
				o.Size = int64(empty)
			}
			switch tlsVerify {
			case "true":
			case "false":
				o.SkipTLS = true
			default:
				return usageError{fmt.Errorf("--tls-verify is true or false, not %q", tlsVerify)}
			}
			switch mode {
			case "crypt":
			case "crypt-integrity":
				o.Integrity = true
			case "verity":
				o.Verity = true
				if empty != 0 {
					return usageError{errors.New("--mode verity would keep the volume empty")}
				}
			default:
				return usageError{fmt.Errorf("--mode is crypt, crypt-integrity or verity, not %q", mode)}
			}
			if uuid != "" {
				var err error
				if o.ID, err = luks2.ParseUUID(uuid); err != nil {
					return usageError{err}
				}
			}
			if o.Sparse {
				fmt.Fprintln(cmd.ErrOrStderr(), "secexec: warning: --sparse shows which blocks of the disk are in use, and so how much it holds and where")
			}
			o.Skipped = func(name string) {
				fmt.Fprintf(cmd.ErrOrStderr(), "secexec: warning: %s is a socket and left out\n", term.Printable(name))
			}
			var newKey pendingFile
			if keyFile != "" {
				var key luks2.Slot
				var err error
				if newKey, err = keyFileOrNew(keyFile, &key.Passphrase); err != nil {
					return err
				}
				defer newKey.Abort()
				defer key.Passphrase.Wipe()
				key.KDF = kdf
				o.Slots = append(o.Slots, key)
			}
			if passphraseFile != "" {
				passphrase, err := readPassphrase(cmd, passphraseFile, true)
				if err != nil {
					return err
				}
				defer passphrase.Wipe()
				o.Slots = append(o.Slots, luks2.Slot{Passphrase: passphrase, KDF: kdf})
			}
			if volumeKey != "" {
				size := rootdisk.KeySize
				if o.Integrity {
					size = rootdisk.IntegrityKeySize
				}
				var err error
				if o.Key, err = readKey(volumeKey, size); err != nil {
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
			what := fmt.Sprintf("%d entries", v.Entries)
			if v.Entries == 0 {
				what = v.FSType
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s, UUID %s\n", output, mib(v.Offset+v.Size), what, luks2.FormatUUID(v.ID))
			if h := v.HashTree; h != nil {
				fmt.Fprintf(cmd.OutOrStdout(), "root hash %x, hash offset %d\n", h.RootHash, h.DataSize)
			}
			return describeImage(cmd, v)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Source, "root", "", "root file system: a folder, archive, disk image or container image")
	f.Var(&empty, "empty", "make an empty ext4 of this size instead, such as 10G")
	f.IntVar(&o.Partition, "partition", 0, "partition of a disk image, by its number (default: the only one that can be a root)")
	f.Var(&size, "root-size", "size of the file system, such as 2G (default: content and head-room)")
	f.StringVar(&o.Label, "label", "", "label of LUKS2 header and file system")
	f.StringVar(&uuid, "uuid", "", "UUID of the LUKS2 header (default: random); the same one and the same files give the same file system")
	f.StringVar(&keyFile, "key-file", "", "key file for a LUKS2 key slot; made if it does not exist")
	f.StringVar(&passphraseFile, "passphrase-file", "", "file with a pass phrase for a LUKS2 key slot, a line feed at its end left out; - reads or asks for it")
	f.StringVar(&volumeKey, "volume-key-file", "", "file with the volume key, 64 bytes, 96 with integrity (default: random)")
	f.StringVar(&mode, "mode", "crypt", "`crypt|crypt-integrity|verity`: with integrity or verity a changed sector is an I/O error; verity is read-only")
	f.StringVar(&o.FSType, "file-system", "ext4", "`ext4|erofs` to make of files")
	f.StringVar(&kdf.Type, "pbkdf", "argon2id", "key derivation of the key slots: argon2id or pbkdf2")
	f.IntVar(&kdf.Memory, "pbkdf-memory", 0, fmt.Sprintf("memory of argon2id in KiB (default %d)", luks2.DefaultMemory))
	f.IntVar(&kdf.CPUs, "pbkdf-parallel", 0, fmt.Sprintf("lanes of argon2id (default %d)", luks2.DefaultCPUs))
	var iterations int
	f.IntVar(&iterations, "pbkdf-force-iterations", 0, fmt.Sprintf("passes of argon2id (default %d), or iterations of pbkdf2 (default %d)",
		luks2.DefaultTime, luks2.DefaultIterations))
	cmd.PreRun = func(*cobra.Command, []string) {
		if kdf.Type == "pbkdf2" {
			kdf.Iterations = iterations
		} else {
			kdf.Time = iterations
		}
	}
	f.BoolVar(&o.Sparse, "sparse", false, "leave free blocks of the ext4 as holes; shows which blocks are in use")
	f.StringVar(&tlsVerify, "tls-verify", "true", "=false takes registries with unknown certificates or plain HTTP; digests are checked all the same")
	f.StringVarP(&output, "output", "o", "", "disk to make")
	_ = cmd.MarkFlagRequired("output")
	cmd.MarkFlagsOneRequired("root", "empty")
	cmd.MarkFlagsMutuallyExclusive("root", "empty")
	cmd.MarkFlagsMutuallyExclusive("root-size", "empty")
	cmd.MarkFlagsOneRequired("key-file", "passphrase-file")
	return cmd
}

// describeImage prints what a container image says of its process, which the
// owner repeats to the build.
func describeImage(cmd *cobra.Command, v *rootdisk.Volume) error {
	c := v.Config
	if c == nil {
		return nil
	}
	fields := []string{"image", v.Digest}
	for _, words := range []struct {
		name  string
		value []string
	}{
		{"entry point", c.Entrypoint}, {"command", c.Cmd}, {"environment", c.Env},
	} {
		if len(words.value) > 0 {
			fields = append(fields, words.name, fmt.Sprintf("%q", words.value))
		}
	}
	for _, word := range [][2]string{{"user", c.User}, {"folder", c.WorkingDir}, {"stop signal", c.StopSignal}} {
		if word[1] != "" {
			fields = append(fields, word[0], term.Printable(word[1]))
		}
	}
	return term.Fields(cmd.OutOrStdout(), fields...)
}
