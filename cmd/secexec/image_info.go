package main

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/secexec/secexec/seimage"
)

// infoFlags are the flags of image info, named as pvimg info names them, and --map.
type infoFlags struct {
	format, hdrKey, printSchema, drawMap string
	showSecrets, asJSON                  bool
	volume
}

func newImageInfo() *cobra.Command {
	var f infoFlags
	cmd := &cobra.Command{
		Use:   "info IMAGE",
		Short: "Show an image's SE header, or draw its memory layout",
		Long: `Info shows an image's SE header; - is standard input. Without --hdr-key nobody
vouches for what is shown: whoever had the file may have written it.

Formats: text (the default on a terminal), text:full, json or json:pretty (the
default elsewhere), json:minify. JSON has the names of pvimg info;
--print-schema json prints its schema. Text is for people and may change.

--map draws where everything lies in guest memory, as text, svg or json.`,
		Example: `  secexec image info boot.seimg
  secexec image info --hdr-key hdr.key --format json boot.seimg
  secexec image info --map=svg boot.seimg`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd, args); err != nil {
				return usageError{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
			}
			if f.printSchema != "" {
				_, err := cmd.OutOrStdout().Write(seimage.InfoSchema)
				return err
			}
			file, size, err := openImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			if f.drawMap != "" {
				return f.showMap(cmd, args[0], file, size)
			}
			return f.show(cmd, args[0], file, size)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.format, "format", "", "text, text:full, json, json:pretty or json:minify")
	flags.BoolVar(&f.asJSON, "json", false, "short for --format json")
	flags.StringVar(&f.hdrKey, "hdr-key", "", "file with the header protection key: checks that the header is authentic")
	flags.StringVar(&f.hdrKey, "key", "", "the same as --hdr-key")
	_ = flags.MarkHidden("key")
	flags.BoolVar(&f.showSecrets, "show-secrets", false, "with --hdr-key: decrypt the header and print its keys too")
	flags.StringVar(&f.printSchema, "print-schema", "", "print the schema of a format (json) and exit")
	flags.StringVar(&f.drawMap, "map", "", "draw the memory layout: text, svg or json")
	flags.Lookup("map").NoOptDefVal = "text"
	f.add(flags)
	once(flags)
	return cmd
}

// check refuses flags that don't go together, as pvimg does, and settles the format.
func (f *infoFlags) check(cmd *cobra.Command, args []string) error {
	if _, _, err := f.writers(cmd); err != nil {
		return err
	}
	given := func(name string) bool { return cmd.Flags().Changed(name) }
	if f.printSchema != "" {
		for _, name := range []string{"format", "json", "hdr-key", "key", "show-secrets", "map"} {
			if given(name) {
				return fmt.Errorf("--print-schema excludes --%s", name)
			}
		}
		switch {
		case len(args) > 0:
			return errors.New("--print-schema takes no image")
		case f.printSchema != "json":
			return fmt.Errorf("no schema for format %q: json has one", f.printSchema)
		}
		return nil
	}
	switch {
	case len(args) == 0:
		return errors.New("give an image")
	case given("hdr-key") && given("key"):
		return errors.New("--key is another name of --hdr-key: give one")
	case f.showSecrets && f.hdrKey == "":
		return errors.New("--show-secrets needs --hdr-key")
	case f.asJSON && given("format"):
		return errors.New("--json excludes --format")
	case given("map") && (f.asJSON || given("format") || f.showSecrets):
		return errors.New("--map excludes --format, --json and --show-secrets: give --map=text, --map=svg or --map=json")
	}
	switch f.drawMap {
	case "", "text", "svg", "json":
	default:
		return fmt.Errorf("no format %q for --map: it draws text, svg or json", f.drawMap)
	}
	format := cmp.Or(strings.ToLower(f.format), "json")
	if out, ok := cmd.OutOrStdout().(*os.File); ok && !f.asJSON && f.format == "" && term.IsTerminal(int(out.Fd())) {
		format = "text"
	}
	switch format {
	case "text", "text:default":
		f.format = "text"
	case "json", "json:default", "json:pretty":
		f.format = "json"
	case "text:full", "json:minify":
		f.format = format
	default:
		return fmt.Errorf("no format %q", f.format)
	}
	return nil
}

func (f *infoFlags) show(cmd *cobra.Command, path string, file io.ReaderAt, size int64) error {
	img, err := seimage.OpenHeader(file, size)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f.found(cmd, path, img)
	secrets, err := f.open(cmd, img.Header)
	if err != nil {
		return err
	}
	if secrets != nil {
		defer secrets.Wipe()
	}
	var shown *seimage.Secrets
	if f.showSecrets {
		shown = secrets
	}
	if strings.HasPrefix(f.format, "json") {
		host, _ := os.Hostname()
		meta := seimage.NewInfoMeta(buildVersion(), cmp.Or(host, "unknown"), time.Now())
		b, err := seimage.NewInfo(img.Header, secrets != nil, shown, meta).JSON(f.format == "json:minify")
		if err != nil {
			return err
		}
		defer clear(b)
		_, err = cmd.OutOrStdout().Write(b)
		return err
	}
	return infoText{cmd.OutOrStdout(), f.format == "text:full"}.write(file, size, img, secrets != nil, shown)
}

// open authenticates the header, where its key is given. The secrets are the
// caller's.
func (f *infoFlags) open(cmd *cobra.Command, h *seimage.Header) (*seimage.Secrets, error) {
	if f.hdrKey == "" {
		if f.quiet == 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), "warning: the SE header is not verified, anybody may have written it: give --hdr-key")
		}
		return nil, nil
	}
	key, err := readKey(f.hdrKey, seimage.HeaderKeySize)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	secrets, err := h.Open(key)
	if err != nil {
		return nil, fmt.Errorf("open SE header with %s: %w", f.hdrKey, err)
	}
	return secrets, nil
}

// infoText writes the form for people.
type infoText struct {
	w    io.Writer
	full bool
}

func (t infoText) write(file io.ReaderAt, size int64, img *seimage.Image, verified bool, secrets *seimage.Secrets) error {
	h := img.Header
	words := "not verified"
	if verified {
		words = "integrity and authenticity verified"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Secure Execution header, %s\n  version: 1\n", words)
	if t.full {
		fmt.Fprintf(&b, "  address: 0x%x\n  size: %d bytes\n  number of key slots: %d\n", img.HeaderAddr, h.Size(), len(h.Slots))
	}
	b.WriteString("  key slots:\n")
	for _, s := range h.Slots {
		fmt.Fprintf(&b, "   - target key hash: %x\n", s.HostHash)
	}
	if t.full {
		fmt.Fprintf(&b, "  customer public key:\n    coordinate: %s\n  number of component pages: %d\n", base64.StdEncoding.EncodeToString(h.CustomerKey[:]), h.NEP)
		fmt.Fprintf(&b, "  components content hash: %x\n  components address hash: %x\n  components tweak hash: %x\n", h.PLD, h.ALD, h.TLD)
	}
	writeFlags(&b, "plaintext", h.PCF.Words())
	if secrets != nil {
		writeFlags(&b, "secret", secrets.SCF.Words())
	}
	if secrets != nil && t.full {
		for _, key := range []struct {
			name  string
			bytes []byte
		}{{"CCK", secrets.CommKey}, {"XTS key", secrets.ImageKey}} {
			b.WriteString("  " + key.name + ": ")
			_, _ = hex.NewEncoder(&b).Write(key.bytes)
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "  PSW:\n    address: 0x%016x\n    mask: 0x%016x\n", secrets.PSW.Addr, secrets.PSW.Mask)
	}
	if t.full {
		if secrets == nil {
			fmt.Fprintf(&b, "  encrypted data: %s\n", base64.StdEncoding.EncodeToString(h.Encrypted))
		}
		fmt.Fprintf(&b, "  GCM tag: %x\n", h.Tag)
	}
	if t.full {
		writeImage(&b, file, size)
	}
	_, err := io.WriteString(t.w, b.String())
	return err
}

// writeImage tells of the file around the header, which may be damaged or not
// there at all.
func writeImage(b *strings.Builder, file io.ReaderAt, size int64) {
	whole, err := seimage.Open(file, size)
	if err != nil {
		fmt.Fprintf(b, "Boot image: %v\n", err)
		return
	}
	kind := "with metadata"
	if whole.Legacy {
		kind = "without metadata, as genprotimg of s390-tools up to 2.35 writes it"
	}
	fmt.Fprintf(b, "Boot image, %d bytes, %s\n  components:\n", size, kind)
	for i, c := range whole.IPIB.Components {
		fmt.Fprintf(b, "   - %s: 0x%x, %d bytes\n", whole.ComponentName(i), c.Addr, c.Size)
	}
	fmt.Fprintf(b, "  IPIB: 0x%x, %d bytes\n", whole.IPIBAddr, whole.IPIB.Size())
}

func writeFlags(b *strings.Builder, kind string, names []string) {
	fmt.Fprintf(b, "  %s control flags:\n", kind)
	for _, name := range names {
		fmt.Fprintf(b, "   - %s\n", name)
	}
	if len(names) == 0 {
		b.WriteString("   - none\n")
	}
}

func (f *infoFlags) showMap(cmd *cobra.Command, path string, file io.ReaderAt, size int64) error {
	img, err := seimage.Open(file, size)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f.found(cmd, path, img)
	secrets, err := f.open(cmd, img.Header)
	if err != nil {
		return err
	}
	if secrets != nil {
		secrets.Wipe()
	}
	switch f.drawMap {
	case "svg":
		return img.Map().SVG(cmd.OutOrStdout())
	case "json":
		return printJSON(cmd, img.Map())
	}
	return img.Map().Text(cmd.OutOrStdout())
}
