package main

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/kernel"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage"
)

// createFlags are what `image create` is told, under pvimg's names.
type createFlags struct {
	hosts    hostFlags
	controls controlFlags
	volume   volume

	kernel, ramdisk, parmfile, output string
	hdrKey, imageKey, cck, seed       string
	noCheck, overwrite                bool
	psw, loaders                      string
}

func newImageCreate() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create -i KERNEL [-r INITRD] [-p PARMFILE] -k DOC... -o IMAGE",
		Short: "Seal kernel, initrd and command line for hosts, as pvimg create does",
		Long: `Create takes every option of pvimg create under the same name.

One of KERNEL, INITRD and PARMFILE may be - for standard input, and each may be
a named pipe. IMAGE may be - for standard output: the image is made in TMPDIR
first, because its header comes last. An image is complete or not there at all.`,
		Example: `  secexec image create -i vmlinuz -r initrd.img -p parmfile -k HKD-8562-1234567.crt \
      -C ibm-z-host-key-signing.crt -C DigiCertCA.crt --hdr-key hdr.key -o boot.seimg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.add(cmd)
	features := flagGroup{title: "What the guest may do, and its host"}
	for _, c := range controls {
		features.names = append(features.names, "enable-"+c.name, "disable-"+c.name)
	}
	groupFlags(cmd, createAliases,
		flagGroup{"Input and output", []string{"kernel", "ramdisk", "parmfile", "output", "overwrite", "no-component-check"}},
		flagGroup{"Hosts", []string{"host-key-document", "cert", "crl", "offline", "root-ca", "no-verify"}},
		flagGroup{"Keys, random where no file is given", []string{"hdr-key", "image-key", "cck", "seed"}},
		features)
	return cmd
}

// createAliases are names of flags in older versions of pvimg and genprotimg.
var createAliases = map[string]string{"kernel": "image", "cert": "crt", "hdr-key": "x-header-key", "image-key": "x-comp-key", "cck": "comm-key"}

func (f *createFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.kernel, "kernel", "i", "", "raw s390x Linux image")
	flags.StringVarP(&f.ramdisk, "ramdisk", "r", "", "initrd")
	flags.StringVarP(&f.parmfile, "parmfile", "p", "", "kernel command line")
	flags.StringVarP(&f.output, "output", "o", "", "image to make")
	f.hosts.add(cmd)
	flags.BoolVar(&f.noCheck, "no-component-check", false, "take a kernel that does not look like one")
	flags.BoolVar(&f.overwrite, "overwrite", false, "replace an existing image")
	flags.StringVar(&f.cck, "cck", "", "customer communication key (CCK), 32 bytes")
	flags.StringVar(&f.hdrKey, "hdr-key", "", "header protection key, 32 bytes; keep it for info, unpack, retarget")
	flags.StringVar(&f.imageKey, "image-key", "", "key of kernel, initrd and command line, 64 bytes")
	flags.StringVar(&f.seed, "seed", "", "32 secret bytes or more: same inputs and seed, same image to the bit")
	f.controls.add(flags)
	flags.StringVar(&f.psw, "x-psw", "", "address where the unpacked guest starts")
	flags.StringVar(&f.loaders, "x-bootloader-directory", "", "")
	_ = flags.MarkHidden("x-psw")
	_ = flags.MarkHidden("x-bootloader-directory")
	f.volume.add(flags)
	names := make(map[string]string)
	for name, older := range createAliases {
		if name != "cert" { // hostFlags has that one
			names[older] = name
		}
	}
	alias(flags, names)
	once(flags)
	for _, name := range []string{"kernel", "output"} {
		_ = cmd.MarkFlagRequired(name)
	}
}

func (f *createFlags) run(cmd *cobra.Command) error {
	out, warn, err := f.volume.writers(cmd)
	if err != nil {
		return err
	}
	var spec seimage.Spec
	if err := f.settle(&spec, warn); err != nil {
		return err
	}
	docs, err := f.hosts.load(warn)
	if err != nil {
		return err
	}
	for _, doc := range docs {
		spec.Hosts = append(spec.Hosts, (*ecdsa.PublicKey)(doc.Key))
	}
	if err := f.checkGuest(cmd.Context(), warn); err != nil {
		return err
	}
	defer wipeKeys(&spec)
	if err := f.readKeys(&spec); err != nil {
		return err
	}
	if f.parmfile != "" {
		if spec.Cmdline, err = readParmfile(f.parmfile); err != nil {
			return fmt.Errorf("read kernel command line: %w", err)
		}
	}
	// The output first: whether its name is free shows before a pipe is read.
	image, err := newImageFile(f.output, f.overwrite)
	if err != nil {
		return err
	}
	defer image.Abort()
	for _, part := range []struct {
		name, path string
		to         *seimage.Source
	}{{"kernel", f.kernel, &spec.Kernel}, {"initrd", f.ramdisk, &spec.Initrd}} {
		if part.path == "" {
			continue
		}
		src, done, err := openSource(cmd.Context(), part.path)
		if err != nil {
			return fmt.Errorf("open %s: %w", part.name, err)
		}
		defer done()
		*part.to = src
	}
	bar := term.NewBytes(warn, "seal", total(spec.Kernel.Size, spec.Initrd.Size))
	spec.Progress = bar.Set
	s, err := seimage.Create(cmd.Context(), image, spec)
	bar.End()
	switch {
	case errors.Is(err, seimage.ErrKernel):
		return fmt.Errorf("%s: %w", f.kernel, err)
	case errors.Is(err, seimage.ErrInitrd):
		return fmt.Errorf("%s: %w", f.ramdisk, err)
	case err != nil:
		return err
	}
	if err := image.Commit(); err != nil {
		return err
	}
	if f.volume.verbose+f.volume.older > 0 {
		f.tell(warn, s)
	}
	if f.output == "-" {
		out = warn
	}
	fmt.Fprintf(out, "%s: %s, %d key slots\n", f.output, mib(s.Size), len(s.Header.Slots))
	return nil
}

// settle checks all that needs no file, and warns of what is unusual.
func (f *createFlags) settle(spec *seimage.Spec, warn io.Writer) error {
	stdin := 0
	for _, path := range []string{f.kernel, f.ramdisk, f.parmfile} {
		if path == "-" {
			stdin++
		}
	}
	switch {
	case stdin > 1:
		return usageError{fmt.Errorf("only one of --kernel, --ramdisk and --parmfile can be standard input")}
	case f.loaders != "":
		return usageError{fmt.Errorf("--x-bootloader-directory: secexec has its own boot loader, which needs no directory: leave the option out")}
	case f.overwrite && f.output == "-":
		return usageError{fmt.Errorf("--overwrite: standard output has nothing to replace")}
	}
	if err := f.controls.apply(spec); err != nil {
		return err
	}
	if f.psw != "" {
		addr, err := parseUint64("--x-psw", f.psw)
		if err != nil {
			return err
		}
		spec.PSWAddr = &addr
	}
	if *spec.PCF&seimage.NoEncryption != 0 {
		if f.imageKey != "" {
			return usageError{fmt.Errorf("--disable-image-encryption excludes --image-key")}
		}
		fmt.Fprintln(warn, "warning: kernel, initrd and command line stay readable: they must hold no secrets")
	}
	if err := seimage.CheckFlags(*spec.PCF, spec.SCF, f.cck != ""); err != nil {
		return usageError{err}
	}
	if spec.NoCheck = f.noCheck; f.noCheck {
		fmt.Fprintln(warn, "warning: the kernel is not checked: whether it starts shows on the machine")
	}
	return nil
}

// checkGuest refuses a kernel that can't be an SE guest, where its release or
// the configuration beside it tells. What is no kernel at all is refused later.
func (f *createFlags) checkGuest(ctx context.Context, warn io.Writer) error {
	if info, err := os.Stat(f.kernel); f.noCheck || err != nil || !info.Mode().IsRegular() {
		return nil
	}
	k, err := kernel.Open(ctx, kernel.Source{Kernel: []string{f.kernel}})
	if err != nil {
		return nil
	}
	defer k.Close()
	if verdict, why := k.Guest(); verdict == kernel.Unknown {
		fmt.Fprintln(warn, "warning: whether this kernel can be a Secure Execution guest is not known:", why)
	}
	return k.CheckGuest()
}

func (f *createFlags) readKeys(spec *seimage.Spec) (err error) {
	for _, key := range []struct {
		path string
		to   *secret.Bytes
		size int
	}{{f.hdrKey, &spec.HeaderKey, seimage.HeaderKeySize}, {f.imageKey, &spec.ImageKey, seimage.ImageKeySize}, {f.cck, &spec.CommKey, seimage.CommKeySize}} {
		if key.path == "" {
			continue
		}
		if *key.to, err = readKey(key.path, key.size); err != nil {
			return err
		}
	}
	if f.seed == "" {
		return nil
	}
	seed, err := readSmall(f.seed, 1<<20)
	if err != nil {
		return fmt.Errorf("read seed: %w", err)
	}
	if spec.Seed = seed; len(seed) < seimage.MinSeedSize {
		return fmt.Errorf("read seed %s: it has %d bytes, wants at least %d", f.seed, len(seed), seimage.MinSeedSize)
	}
	return nil
}

func wipeKeys(spec *seimage.Spec) {
	for _, key := range []secret.Bytes{spec.HeaderKey, spec.ImageKey, spec.CommKey, spec.Seed} {
		key.Wipe()
	}
}

// readParmfile reads a kernel command line as it is, its last newline too.
func readParmfile(path string) ([]byte, error) {
	if path == "-" {
		path = "/dev/stdin"
	}
	return readSmall(path, 64<<10)
}

// total is the number of bytes to seal, or 0 where it shows at the end only.
func total(sizes ...int64) (sum int64) {
	for _, n := range sizes {
		if n == seimage.Unsized {
			return 0
		}
		sum += n
	}
	return sum
}

// tell shows the image's layout.
func (f *createFlags) tell(w io.Writer, s *seimage.Summary) {
	fmt.Fprintf(w, "SE header: 0x%x, %d bytes, %s, %d encrypted pages\n", s.HeaderAddr, s.Header.Size(), s.Header.PCF, s.Header.NEP)
	for i, name := range []string{"kernel", "initrd", "command line", "boot loader"} {
		c := s.IPIB.Components[i]
		fmt.Fprintf(w, "%s: 0x%x, %d bytes\n", name, c.Addr, c.Size)
	}
	fmt.Fprintf(w, "IPIB: 0x%x, %d bytes\n", s.IPIBAddr, s.IPIB.Size())
}

// imageFile is where an image is made.
type imageFile interface {
	io.WriterAt
	Commit() error
	Abort()
}

func newImageFile(path string, overwrite bool) (imageFile, error) {
	if path != "-" {
		return outfile.Create(path, 0o644, overwrite)
	}
	f, err := os.CreateTemp("", ".secexec-image-*")
	if err != nil {
		return nil, fmt.Errorf("make a temporary file for standard output: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("make a temporary file for standard output: %w", err)
	}
	return &stdoutImage{f}, nil
}

// stdoutImage is an image on its way to standard output, in a file without a name.
type stdoutImage struct{ *os.File }

func (s *stdoutImage) Commit() error {
	defer s.Close()
	if _, err := s.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("write standard output: %w", err)
	}
	if _, err := io.Copy(os.Stdout, s.File); err != nil {
		return fmt.Errorf("write standard output: %w", err)
	}
	return nil
}

func (s *stdoutImage) Abort() { s.Close() }
