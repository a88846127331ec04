package main

import (
	"context"
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage"
)

// retargetFlags are what `image retarget` is told.
type retargetFlags struct {
	hosts     hostFlags
	volume    volume
	remove    []string
	hdrKey    string
	output    string
	replace   bool
	overwrite bool
}

func newImageRetarget() *cobra.Command {
	var f retargetFlags
	cmd := &cobra.Command{
		Use:   "retarget IMAGE --hdr-key FILE [-k DOC...] [--remove DOC|HASH...] [--replace] [-o IMAGE]",
		Short: "Give an image key slots for other hosts, in milliseconds",
		Long: `Retarget rewrites an image's SE header: it adds key slots for the hosts of -k
(--add), takes away those of --remove, and with --replace takes away all but
those of -k. Nothing is encrypted anew. It takes the key that image create was
given by --hdr-key.

Without -o the image is changed in place. Cut off at any moment, it is the old
one or the new one; the next retarget tidies. Images of pvimg have room for the
key slots that fit the page or two of their header, and their hosts' documents
must be given again: -k for each host to keep.

A host that was removed refuses the image from now on. It opens copies of the
image made before as it always did.`,
		Example: `  secexec image retarget boot.seimg --hdr-key hdr.key -k HKD-new.crt -C ibm-z-host-key-signing.crt -C DigiCertCA.crt
  secexec image retarget boot.seimg --hdr-key hdr.key --remove HKD-old.crt -o next.seimg`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	f.addChange(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&f.output, "output", "o", "", "image to make (default: in place)")
	flags.BoolVar(&f.overwrite, "overwrite", false, "replace an existing image of -o")
	f.volume.add(flags)
	once(flags)
	return cmd
}

// addChange adds the flags that say how key slots change.
func (f *retargetFlags) addChange(cmd *cobra.Command) {
	f.hosts.add(cmd)
	flags := cmd.Flags()
	doc := flags.Lookup("host-key-document")
	doc.Usage = "host key document of a host to add (repeatable; also --add)"
	delete(doc.Annotations, cobra.BashCompOneRequiredFlag)
	flags.StringArrayVar(&f.remove, "remove", nil, "host to remove, by its document or its key's hash (repeatable)")
	flags.BoolVar(&f.replace, "replace", false, "remove all hosts but those of -k")
	flags.StringVar(&f.hdrKey, "hdr-key", "", "file with the image's header protection key, 32 bytes")
	alias(flags, map[string]string{"add": "host-key-document"})
	_ = cmd.MarkFlagRequired("hdr-key")
}

func (f *retargetFlags) run(cmd *cobra.Command, path string) error {
	out, warn, err := f.volume.writers(cmd)
	if err != nil {
		return err
	}
	if f.overwrite && f.output == "" {
		return usageError{errors.New("--overwrite goes with --output: without it the image is changed in place")}
	}
	change, _, err := f.change(warn)
	if err != nil {
		return err
	}
	key, err := readKey(f.hdrKey, seimage.HeaderKeySize)
	if err != nil {
		return err
	}
	defer key.Wipe()
	var h *seimage.Header
	if f.output == "" {
		h, err = retargetInPlace(path, key, change)
	} else {
		h, err = f.retargetCopy(cmd.Context(), path, key, change)
	}
	switch {
	case errors.Is(err, seimage.ErrHeaderTag):
		return fmt.Errorf("open SE header with %s: %w", f.hdrKey, err)
	case errors.Is(err, seimage.ErrNotImage) || errors.Is(err, seimage.ErrTruncated):
		return fmt.Errorf("%s: %w", path, err)
	case err != nil:
		return err
	}
	if f.output != "" {
		path = f.output
	}
	fmt.Fprintf(out, "%s: %d key slots\n", path, len(h.Slots))
	if f.volume.verbose+f.volume.older > 0 {
		for _, s := range h.Slots {
			fmt.Fprintf(warn, "%x\n", s.HostHash)
		}
	}
	return nil
}

// change says how key slots change, with the documents of hosts to add, read
// and verified.
func (f *retargetFlags) change(warn io.Writer) (change seimage.Slots, docs []*hostkey.Document, err error) {
	switch {
	case len(f.hosts.documents) == 0 && len(f.remove) == 0:
		return change, nil, usageError{errors.New("give hosts to add by -k, or hosts to remove by --remove")}
	case f.replace && len(f.hosts.documents) == 0:
		return change, nil, usageError{errors.New("--replace needs the hosts that the image is for from now on: give their documents by -k")}
	case f.replace && len(f.remove) > 0:
		return change, nil, usageError{errors.New("--replace removes all other hosts: leave --remove out")}
	}
	change.Replace = f.replace
	if len(f.hosts.documents) > 0 {
		if docs, err = f.hosts.load(warn); err != nil {
			return change, nil, err
		}
	}
	for _, doc := range docs {
		change.Add = append(change.Add, (*ecdsa.PublicKey)(doc.Key))
	}
	for _, name := range f.remove {
		hash, err := hostHash(name, warn)
		if err != nil {
			return change, nil, err
		}
		change.Remove = append(change.Remove, hash)
	}
	return change, docs, nil
}

// hostHash takes a host key's hash in hex, or the hash of a document's key. A
// host to remove needs no verification.
func hostHash(name string, warn io.Writer) (hash [32]byte, err error) {
	if b, err := hex.DecodeString(strings.TrimPrefix(name, "0x")); err == nil && len(b) == len(hash) {
		return [32]byte(b), nil
	}
	doc, err := readDocument(name, warn)
	if err != nil {
		return hash, err
	}
	return doc.Hash(), nil
}

func retargetInPlace(path string, key secret.Bytes, change seimage.Slots) (*seimage.Header, error) {
	f, size, err := openToChange(path)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	defer f.Close()
	if err := lockFile(f); err != nil {
		return nil, fmt.Errorf("open image %s: %w", path, err)
	}
	// Without metadata tools lose such an image where a change is cut off.
	if img, err := seimage.Open(f, size); err == nil && img.Legacy {
		return nil, fmt.Errorf("open image %s: the older genprotimg made it: it can't be changed in place, give -o for a copy", path)
	}
	return seimage.Retarget(f, size, key, change)
}

func (f *retargetFlags) retargetCopy(ctx context.Context, path string, key secret.Bytes, change seimage.Slots) (*seimage.Header, error) {
	in, size, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	defer in.Close()
	// Before something else is copied.
	if _, err := seimage.Open(in, size); err != nil {
		return nil, err
	}
	if size > imageLimit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", seimage.ErrNotImage, size, int64(imageLimit))
	}
	out, err := outfile.Create(f.output, 0o644, f.overwrite)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	if err := cloneFile(ctx, out.File, in, size); err != nil {
		return nil, fmt.Errorf("copy %s to %s: %w", path, f.output, err)
	}
	h, err := seimage.Retarget(unhurried{out.File}, size, key, change)
	if err != nil {
		return nil, err
	}
	return h, out.Commit()
}

// unhurried is a file that nobody sees yet: one Sync at its end will do.
type unhurried struct{ *os.File }

func (unhurried) Sync() error { return nil }

// openToChange is openRegular for a file that is written to.
func openToChange(path string) (*os.File, int64, error) {
	in, size, err := openRegular(path)
	if err != nil {
		return nil, 0, err
	}
	defer in.Close()
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", in.Fd()), os.O_RDWR, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, errors.Unwrap(err))
	}
	return f, size, nil
}
