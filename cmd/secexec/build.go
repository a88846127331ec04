package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/kernel"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/owner/buildfile"
	"github.com/secexec/secexec/sealed"
)

func newBuild() *cobra.Command {
	var flags buildFlags
	var printSchema, dryRun, update bool
	cmd := &cobra.Command{
		Use:   "build [-f FILE] [flags]",
		Short: "Encrypt a root disk, pack the initrd, seal the boot image: all in one step",
		Long: `Build makes two folders: the bundle, which goes to the provider, and the
secrets, which stay with the owner. Both appear complete or not at all.

What to build is said by a file, by default secexec.yaml in the working
directory, by flags, or by both: a flag goes before the file's field. Paths in
the file are relative to the file.

With --from-image the root is a container image, and guestinit runs the image's
program in the guest as a container engine would, with no change to the image.
An image whose program is an init, such as systemd, is handed over to it.

With --bootable-disk the bundle's one disk boots by itself, and there is a copy of
it for providers that know no hostagent.

With --update all of them are replaced. A disk whose source is the same is taken
over; otherwise it is encrypted again with the same volume key, so that what did
not change in it need not be transferred again. The secrets keep the previous
keys in the folder previous.`,
		Example: `  secexec build
  secexec build -f app.yaml --update --memory 2048
  secexec build --root docker://example.com/app:1 --kernel linux-image.deb \
    -k HKD-8561-0123456.crt -C ibm-z-host-key-signing.crt -C DigiCertCA.crt \
    --volume name=data,mount=/srv,size=10G -o app --secrets app-secrets
  secexec build --from-image app.tar --restart on-failure
  secexec build --bootable-disk app.qcow2`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if printSchema {
				schema, err := buildfile.Schema()
				if err != nil {
					return err
				}
				_, err = cmd.OutOrStdout().Write(schema)
				return err
			}
			file, err := flags.load(cmd)
			if err != nil {
				return err
			}
			plan, err := planOf(cmd, file)
			if err != nil {
				return err
			}
			plan.SkipTLS = !flags.tlsVerify
			if dryRun {
				return showPlan(cmd, file, plan)
			}
			plan.Update = update
			return build(cmd, plan)
		},
	}
	flags.add(cmd)
	f := cmd.Flags()
	f.BoolVar(&update, "update", false, "replace the bundle and its secrets if they exist, with what did not change")
	f.BoolVar(&dryRun, "dry-run", false, "check the plan and print it as a build file, build nothing")
	f.BoolVar(&printSchema, "print-schema", false, "print the JSON schema of the build file")
	groupFlags(cmd, nil,
		flagGroup{"What to build", []string{"file", "name", "from-image", "root", "partition", "root-size", "read-only", "grow", "root-mode", "root-file-system", "overlay", "overlay-size", "overlay-mode", "overlay-key", "volume", "swap-size", "kernel", "modules", "kernel-release", "module-signatures", "guest-dir", "tls-verify"}},
		flagGroup{"How the guest runs", []string{"memory", "scsi", "no-network", "cmdline", "parmfile", "init", "stop-signal", "ready", "enable-dump"}},
		flagGroup{"The program of a root without an init", []string{"entrypoint", "command", "env", "user", "workdir", "cap-add", "cap-drop", "no-new-privileges", "stop-timeout", "restart", "max-restarts", "restart-window", "hostname", "network", "address", "gateway", "dns", "dns-search", "mtu"}},
		flagGroup{"The owner's channel", []string{"secret", "channel-exec", "channel-client", "no-channel"}},
		flagGroup{"Hardening", []string{"lockdown", "lock-modules", "hide-pids", "sysctl"}},
		flagGroup{"Hosts", []string{"host-key-document", "cert", "crl", "offline", "root-ca", "no-verify"}},
		flagGroup{"Outputs", []string{"output", "secrets", "bootable-disk", "update", "dry-run", "print-schema"}},
	)
	return cmd
}

func build(cmd *cobra.Command, plan *owner.Plan) error {
	steps := term.NewSteps(cmd.OutOrStdout())
	plan.Step = steps.Begin
	res, err := owner.Build(cmd.Context(), *plan)
	if err != nil {
		steps.Fail()
		if errors.Is(err, outfile.ErrExists) {
			return fmt.Errorf("%w, or replace bundle and secrets by --update", err)
		}
		return err
	}
	steps.End("")
	m := res.Manifest
	parts := []string{"image " + mib(m.Image.Size)}
	for _, d := range m.Disks {
		part := d.Serial + " " + mib(d.Size)
		switch {
		case d.Blank():
			part += " made where the guest runs"
		case slices.Contains(res.Reused, d.Serial):
			part += " as before"
		}
		parts = append(parts, part)
	}
	secrets := plan.Secrets + ", for nobody else"
	if res.Updated {
		secrets += "; those of the build before are in " + filepath.Join(plan.Secrets, owner.PreviousDir)
	}
	lines := []string{"bundle", fmt.Sprintf("%s (%s), for the provider", plan.Bundle, strings.Join(parts, ", "))}
	if plan.BootableDisk != "" {
		lines = append(lines, "bootable disk", plan.BootableDisk+", for providers that boot a guest from its disk")
	}
	lines = append(lines, "root", owner.ModeLimits(plan.Root.Mode))
	if plan.Overlay != nil {
		lines = append(lines, "overlay", plan.Overlay.Limits())
	}
	for _, v := range plan.Volumes {
		lines = append(lines, "volume "+v.Name, owner.ModeLimits(v.Mode))
	}
	return term.Fields(cmd.OutOrStdout(), append(lines,
		"secrets", secrets,
		"image id", m.Image.ID,
		"key slots", fmt.Sprint(len(m.KeySlots)),
		"initrd", fmt.Sprintf("%s, %d modules of kernel %s", mib(res.InitrdSize), res.Modules, res.Release),
		"cmdline", res.Cmdline)...)
}

var readyAt = map[string]sealed.Ready{"handover": sealed.ReadyAtHandover, "notify": sealed.ReadyAtNotify}

// planOf makes the plan that a complete build file asks for, with the host key
// documents read and verified.
func planOf(cmd *cobra.Command, f *buildfile.File) (*owner.Plan, error) {
	hosts := hostFlags{
		cmd: cmd, documents: plainPaths(f.Hosts.Documents), certs: plainPaths(f.Hosts.Certs), crls: plainPaths(f.Hosts.CRLs),
		offline: f.Hosts.Offline, rootCA: string(f.Hosts.RootCA), noVerify: f.Hosts.NoVerify,
	}
	docs, err := hosts.load(cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	guestDir, err := findGuestDir(string(f.GuestDir))
	if err != nil {
		return nil, err
	}
	root, err := fileSystem(buildfile.Volume{Source: f.Root.Source, Partition: f.Root.Partition, Size: f.Root.Size, ReadOnly: f.Root.ReadOnly, Mode: f.Root.Mode, FileSystem: f.Root.FileSystem, Grow: f.Root.Grow})
	if err != nil {
		return nil, usageError{fmt.Errorf("root: %w", err)}
	}
	hardening, err := hardeningOf(f.Hardening)
	if err != nil {
		return nil, err
	}
	plan := &owner.Plan{
		Name: f.Name, Kernel: kernel.Source{Kernel: plainPaths(f.Kernel), Modules: plainPaths(f.Modules), Release: f.KernelRelease},
		Strip: f.Signatures == "strip", Cmdline: f.Cmdline,
		Root: root, SwapSize: int64(f.Swap.Size),
		Init: f.Init, StopSignal: uint8(f.StopSignal), Ready: readyAt[f.Ready], MemoryMiB: f.MemoryMiB, AllowDump: f.EnableDump, Hardening: hardening,
		Devices: owner.Devices(f.Devices),
		Hosts:   docs, GuestDir: guestDir, Bundle: string(f.Output), Secrets: string(f.Secrets), BootableDisk: string(f.BootableDisk),
		Warn: func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), "warning:", text) },
	}
	if plan.Overlay, err = owner.ParseOverlay(f.Root.Overlay, int64(f.Root.OverlaySize), f.Root.OverlayMode, f.Root.OverlayKey, root.Mode); err != nil {
		return nil, usageError{err}
	}
	if plan.Channel, err = channelOf(&f.Channel); err != nil {
		return nil, err
	}
	for _, v := range f.Volumes {
		fs, err := fileSystem(v)
		if err != nil {
			return nil, usageError{fmt.Errorf("volume %s: %w", v.Name, err)}
		}
		plan.Volumes = append(plan.Volumes, owner.Volume{Name: v.Name, Mount: v.Mount, Fresh: v.Key == "fresh", FileSystem: fs})
	}
	return plan, fillWorkload(cmd, f, plan)
}

// fileSystem is what a volume of the build file holds.
func fileSystem(v buildfile.Volume) (owner.FileSystem, error) {
	mode, err := owner.ParseMode(v.Mode)
	return owner.FileSystem{Source: string(v.Source), Partition: v.Partition, Size: int64(v.Size), ReadOnly: v.ReadOnly, Mode: mode, FSType: v.FileSystem, Grow: v.Grow}, err
}

func plainPaths(paths []buildfile.Path) []string {
	var out []string
	for _, p := range paths {
		out = append(out, string(p))
	}
	return out
}

// showPlan prints a plan that was checked as a build file that says all of it.
func showPlan(cmd *cobra.Command, f *buildfile.File, plan *owner.Plan) error {
	res, err := plan.Check(cmd.Context())
	if err != nil {
		return err
	}
	full, err := f.Absolute()
	if err != nil {
		return err
	}
	full.Cmdline = res.Cmdline
	showWorkload(full, plan, res)
	dir, err := filepath.Abs(plan.GuestDir)
	if err != nil {
		return fmt.Errorf("find guestinit: %w", err)
	}
	full.GuestDir = buildfile.Path(dir)
	text, err := full.Marshal()
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(text)
	return err
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
