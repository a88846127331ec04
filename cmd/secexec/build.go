package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/owner"
)

func newBuild() *cobra.Command {
	var hosts hostFlags
	var plan owner.Plan
	var size byteSize
	var parmfile string
	cmd := &cobra.Command{
		Use:   "build --root DIR|TAR --kernel FILE --modules DIR -k DOC... -o BUNDLE --secrets DIR",
		Short: "Encrypt a root disk, pack the initrd, seal the boot image: all in one step",
		Long: `Build makes two folders: the bundle, which goes to the provider, and the
secrets, which stay with the owner. Both appear complete or not at all.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := hosts.load(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			plan.Hosts, plan.RootSize = docs, int64(size)
			if plan.Name == "" {
				plan.Name = filepath.Base(filepath.Clean(plan.Bundle))
			}
			if parmfile != "" {
				text, err := readSmall(parmfile, 64<<10)
				if err != nil {
					return fmt.Errorf("read kernel command line: %w", err)
				}
				plan.Cmdline = string(text)
			}
			if plan.GuestDir, err = findGuestDir(plan.GuestDir); err != nil {
				return err
			}
			steps := term.NewSteps(cmd.OutOrStdout())
			plan.Step = steps.Begin
			res, err := owner.Build(cmd.Context(), plan)
			if err != nil {
				steps.Fail()
				return err
			}
			steps.End("")
			m := res.Manifest
			return term.Fields(cmd.OutOrStdout(),
				"bundle", fmt.Sprintf("%s (image %s, root %s), for the provider", plan.Bundle, mib(m.Image.Size), mib(m.Disks[0].Size)),
				"secrets", plan.Secrets+", for nobody else",
				"image id", m.Image.ID,
				"key slots", fmt.Sprint(len(m.KeySlots)),
				"initrd", fmt.Sprintf("%s, %d kernel modules", mib(res.InitrdSize), res.Modules),
				"cmdline", res.Cmdline)
		},
	}
	f := cmd.Flags()
	f.StringVar(&plan.Name, "name", "", "the workload's name (default: the bundle folder's)")
	f.StringVar(&plan.Root, "root", "", "root file system: a folder or a tar archive")
	f.Var(&size, "root-size", "size of the root file system, such as 2G (default: content and head-room)")
	f.BoolVar(&plan.ReadOnly, "read-only", false, "map and mount the root read-only")
	f.StringVarP(&plan.Kernel, "kernel", "i", "", "s390x Linux image")
	f.StringVar(&plan.Modules, "modules", "", "folder with the kernel's lib/modules")
	f.StringVarP(&parmfile, "parmfile", "p", "", "file with the kernel command line (default: what an SE guest needs)")
	f.StringVar(&plan.Cmdline, "cmdline", "", "kernel command line")
	f.StringVar(&plan.Init, "init", "/sbin/init", "program in the root to hand over to")
	f.Uint8Var(&plan.StopSignal, "stop-signal", 38, "signal that asks it to power off (systemd: SIGRTMIN+4 = 38)")
	f.IntVar(&plan.MemoryMiB, "memory", 1024, "guest memory in MiB")
	f.StringVar(&plan.GuestDir, "guest-dir", "", "folder with the s390x guestinit and guestagent (default: installed ones)")
	f.StringVarP(&plan.Bundle, "output", "o", "", "bundle folder to make")
	f.StringVar(&plan.Secrets, "secrets", "", "folder to make for the owner's keys")
	hosts.add(cmd)
	for _, name := range []string{"root", "kernel", "modules", "output", "secrets"} {
		_ = cmd.MarkFlagRequired(name)
	}
	cmd.MarkFlagsMutuallyExclusive("parmfile", "cmdline")
	return cmd
}

// findGuestDir finds guestinit and guestagent: as asked, beside this program,
// or where the package puts them.
func findGuestDir(asked string) (string, error) {
	candidates := []string{"/usr/lib/secexec/s390x"}
	if exe, err := os.Executable(); err == nil {
		candidates = append([]string{filepath.Join(filepath.Dir(exe), "s390x")}, candidates...)
	}
	if asked != "" {
		candidates = []string{asked}
	}
	for _, dir := range candidates {
		if _, err := os.Stat(filepath.Join(dir, "guestinit")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("find guestinit: not in %v: install package secexec, run make build, or give --guest-dir", candidates)
}
