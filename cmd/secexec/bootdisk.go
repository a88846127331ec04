package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/bootdisk"
	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/rootdisk/luks2"
	"github.com/secexec/secexec/seimage"
)

func newBootdisk() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bootdisk",
		Short: "Make and change disks that boot by themselves",
		Long: `A bootable disk holds SE boot images, encrypted volumes and a zIPL boot record, by
which QEMU's own firmware starts an image: for providers that boot a guest from
its disk and know no -kernel.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBootdiskCreate(), newBootdiskInfo(), newBootdiskReplace())
	return cmd
}

func newBootdiskCreate() *cobra.Command {
	var o bootdisk.Options
	var output, format string
	var volumes []string
	var size byteSize
	cmd := &cobra.Command{
		Use:   "create --image IMAGE... --volume GUID=DISK... -o OUT",
		Short: "Put images and encrypted volumes on one bootable disk",
		Long: `Create makes a disk with a boot partition for the images and a partition for each
volume, in the order given, the root first. A volume's GUID is the one by which
the image's sealed record finds it. The first image boots by default; loadparm 1
chooses it, too, loadparm 2 the second one, and so on.`,
		Example: `  secexec bootdisk create --image boot.seimg --volume 2f5a7c1e-8d04-4b96-a3c7-51e0d9b8f642=root.img -o disk.qcow2`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for i, v := range volumes {
				guid, path, _ := strings.Cut(v, "=")
				id, err := bootdisk.ParseGUID(guid)
				if err != nil {
					return usageError{fmt.Errorf("--volume %s is not GUID=DISK: %w", v, err)}
				}
				if path == "" {
					return usageError{fmt.Errorf("--volume %s names no disk", v)}
				}
				name := "root"
				if i > 0 {
					name = fmt.Sprintf("data%d", i-1)
				}
				o.Volumes = append(o.Volumes, bootdisk.Volume{ID: id, Name: name, Path: path})
			}
			switch format {
			case "":
				o.QCOW2 = strings.HasSuffix(output, ".qcow2")
			case "raw", "qcow2":
				o.QCOW2 = format == "qcow2"
			default:
				return usageError{fmt.Errorf("--format %s is neither raw nor qcow2", format)}
			}
			for _, path := range o.Images {
				if err := checkImage(path); err != nil {
					return err
				}
			}
			for _, v := range o.Volumes {
				if err := checkVolume(v.Path); err != nil {
					return err
				}
			}
			o.BootSize = int64(size)
			t, err := bootdisk.Create(cmd.Context(), output, o)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %d images, %d volumes\n", output, mib(t.Size), len(o.Images), len(o.Volumes))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.Images, "image", nil, "SE boot image, the default one first (repeatable)")
	f.StringArrayVar(&volumes, "volume", nil, "GUID=DISK: the partition's number and an encrypted disk, the root first (repeatable)")
	f.Var(&size, "boot-size", "size of the boot partition, such as 256M (default: room for the images and one more)")
	f.StringVar(&format, "format", "", "raw or qcow2 (default: by the output's suffix)")
	f.StringVarP(&output, "output", "o", "", "disk to make")
	for _, name := range []string{"image", "output"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

// checkImage refuses a file that is no SE boot image.
func checkImage(path string) error {
	f, size, err := openRegular(path)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	defer f.Close()
	if _, err := seimage.Open(f, size); err != nil {
		return fmt.Errorf("open image %s: %w", path, err)
	}
	return nil
}

// checkVolume refuses a file that is no whole LUKS2 disk: what is not encrypted
// must not go to a provider.
func checkVolume(path string) error {
	f, size, err := openRegular(path)
	if err != nil {
		return fmt.Errorf("open volume: %w", err)
	}
	defer f.Close()
	h, err := luks2.Parse(f)
	if err == nil && size < h.Offset+max(1, h.Payload) {
		err = errCutOff
	}
	if err != nil {
		return fmt.Errorf("open volume %s: %w", path, err)
	}
	return nil
}

func newBootdiskInfo() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "info DISK",
		Short:   "Show a raw disk's partitions and boot menu",
		Example: `  secexec bootdisk info disk.raw`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := openInput(args[0])
			if err != nil {
				return fmt.Errorf("open disk: %w", err)
			}
			defer f.Close()
			size, err := f.Seek(0, io.SeekEnd)
			if err != nil {
				return fmt.Errorf("open disk: %w", err)
			}
			t, err := bootdisk.ReadTable(f, size)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			slots, err := bootdisk.ReadRecord(f, size)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return showBootdisk(cmd, t, slots, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showBootdisk(cmd *cobra.Command, t *bootdisk.Table, slots []*bootdisk.Program, asJSON bool) error {
	var partitions, menu []map[string]any
	fields := []string{"size", fmt.Sprintf("%d bytes (%s)", t.Size, mib(t.Size)), "disk GUID", t.DiskID.String()}
	for i, p := range t.Partitions {
		partitions = append(partitions, map[string]any{
			"number": i + 1, "guid": p.ID.String(), "type": p.Type.String(), "name": p.Name, "start": p.Start, "size": p.Size,
		})
		fields = append(fields, fmt.Sprintf("partition %d", i+1), fmt.Sprintf("%s %s, %s", p.ID, p.Name, mib(p.Size)))
	}
	for i, p := range slots {
		if p == nil {
			continue
		}
		loaded := int64(0)
		for _, l := range p.Loads {
			for _, r := range l.Runs {
				loaded += r.Blocks * bootdisk.BlockSize
			}
		}
		menu = append(menu, map[string]any{"loadparm": i, "bytes": loaded, "psw": fmt.Sprintf("0x%016x", p.PSW)})
		fields = append(fields, fmt.Sprintf("loadparm %d", i), fmt.Sprintf("loads %s, starts at 0x%x", mib(loaded), p.PSW&0x7fffffff))
	}
	if asJSON {
		return printJSON(cmd, map[string]any{"size": t.Size, "guid": t.DiskID.String(), "partitions": partitions, "boot_menu": menu})
	}
	return term.Fields(cmd.OutOrStdout(), fields...)
}

func newBootdiskReplace() *cobra.Command {
	return &cobra.Command{
		Use:   "replace DISK IMAGE",
		Short: "Make an image the default of a raw bootable disk",
		Long: `Replace puts a new image on a disk, a raw image file or a block device that
nobody uses. The default so far becomes the previous one, loadparm 2. If anything
fails the disk boots as before.`,
		Example: `  secexec bootdisk replace disk.raw next.seimg`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkImage(args[1]); err != nil {
				return err
			}
			if err := bootdisk.Replace(cmd.Context(), args[0], args[1]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: boots %s; the image before it is at loadparm 2\n", args[0], args[1])
			return nil
		},
	}
}
