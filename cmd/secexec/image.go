package main

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage"
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Make and look at SE boot images",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImageCreate(), newImageInfo(), newImageTest(), newImageUnpack())
	return cmd
}

func newImageCreate() *cobra.Command {
	var hosts hostFlags
	var kernel, ramdisk, parmfile, output string
	var hdrKey, imageKey, cck string
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "create -i KERNEL [-r INITRD] [-p PARMFILE] -k DOC... -o IMAGE",
		Short: "Seal kernel, initrd and command line for hosts, as pvimg create does",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := hosts.load(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			var spec seimage.Spec
			for _, doc := range docs {
				spec.Hosts = append(spec.Hosts, (*ecdsa.PublicKey)(doc.Key))
			}
			for _, key := range []struct {
				path string
				to   *secret.Bytes
				size int
			}{{hdrKey, &spec.HeaderKey, seimage.HeaderKeySize}, {imageKey, &spec.ImageKey, seimage.ImageKeySize}, {cck, &spec.CommKey, seimage.CommKeySize}} {
				if key.path == "" {
					continue
				}
				if *key.to, err = readKey(key.path, key.size); err != nil {
					return err
				}
				defer key.to.Wipe()
			}
			if parmfile != "" {
				if spec.Cmdline, err = readSmall(parmfile, 64<<10); err != nil {
					return fmt.Errorf("read kernel command line: %w", err)
				}
			}
			for _, part := range []struct {
				name, path string
				to         *seimage.Source
			}{{"kernel", kernel, &spec.Kernel}, {"initrd", ramdisk, &spec.Initrd}} {
				if part.path == "" {
					continue
				}
				f, size, err := openRegular(part.path)
				if err != nil {
					return fmt.Errorf("open %s: %w", part.name, err)
				}
				defer f.Close()
				*part.to = seimage.Source{R: f, Size: size}
			}
			out, err := outfile.Create(output, 0o644, overwrite)
			if err != nil {
				return err
			}
			defer out.Abort()
			s, err := seimage.Create(cmd.Context(), out, spec)
			if err != nil {
				return err
			}
			if err := out.Commit(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %d key slots\n", output, mib(s.Size), len(s.Header.Slots))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&kernel, "kernel", "i", "", "s390x Linux image")
	f.StringVarP(&ramdisk, "ramdisk", "r", "", "initrd")
	f.StringVarP(&parmfile, "parmfile", "p", "", "file with the kernel command line")
	f.StringVarP(&output, "output", "o", "", "image to make")
	f.StringVar(&hdrKey, "hdr-key", "", "file with the header protection key, 32 bytes (default: random, kept nowhere)")
	f.StringVar(&imageKey, "image-key", "", "file with the image key, 64 bytes (default: random)")
	f.StringVar(&cck, "cck", "", "file with the customer communication key, 32 bytes (default: random)")
	f.BoolVar(&overwrite, "overwrite", false, "replace an existing image")
	hosts.add(cmd)
	for _, name := range []string{"kernel", "output"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

func newImageInfo() *cobra.Command {
	var asJSON bool
	var hdrKey string
	cmd := &cobra.Command{
		Use:   "info IMAGE",
		Short: "Show an image's SE header",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, size, err := openRegular(args[0])
			if err != nil {
				return fmt.Errorf("open image: %w", err)
			}
			defer f.Close()
			img, err := seimage.Open(f, size)
			if err != nil {
				return err
			}
			verified := "not checked: give --hdr-key"
			if hdrKey != "" {
				key, err := readKey(hdrKey, seimage.HeaderKeySize)
				if err != nil {
					return err
				}
				defer key.Wipe()
				secrets, err := img.Header.Open(key)
				if err != nil {
					return fmt.Errorf("open SE header with %s: %w", hdrKey, err)
				}
				secrets.Wipe()
				verified = "authentic"
			}
			return showImage(cmd, img, size, verified, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&hdrKey, "hdr-key", "", "file with the header protection key: checks that the header is authentic")
	return cmd
}

func showImage(cmd *cobra.Command, img *seimage.Image, size int64, verified string, asJSON bool) error {
	h := img.Header
	var slots []string
	for _, s := range h.Slots {
		slots = append(slots, hex.EncodeToString(s.HostHash[:]))
	}
	if asJSON {
		return printJSON(cmd, map[string]any{
			"size": size, "version": fmt.Sprintf("0x%x", seimage.HeaderVersion), "header_address": img.HeaderAddr, "header_size": h.Size(),
			"header": verified, "key_slots": slots, "encrypted_pages": h.NEP, "pcf": fmt.Sprintf("0x%016x", uint64(h.PCF)), "flags": h.PCF.String(),
			"pld": hex.EncodeToString(h.PLD[:]), "ald": hex.EncodeToString(h.ALD[:]), "tld": hex.EncodeToString(h.TLD[:]),
			"components": len(img.IPIB.Components), "legacy": img.Legacy,
		})
	}
	return term.Fields(cmd.OutOrStdout(),
		"size", fmt.Sprintf("%d bytes (%s)", size, mib(size)),
		"SE header", fmt.Sprintf("version 0x%x at 0x%x, %d bytes, %s", seimage.HeaderVersion, img.HeaderAddr, h.Size(), verified),
		"key slots", strings.Join(slots, " "),
		"encrypted pages", fmt.Sprint(h.NEP),
		"flags", h.PCF.String(),
		"components", fmt.Sprint(len(img.IPIB.Components)),
		"PLD", hex.EncodeToString(h.PLD[:]),
		"ALD", hex.EncodeToString(h.ALD[:]),
		"TLD", hex.EncodeToString(h.TLD[:]))
}

func newImageTest() *cobra.Command {
	var docs []string
	var hashFile string
	cmd := &cobra.Command{
		Use:   "test IMAGE (-k DOC... | --key-hashes FILE)",
		Short: "Tell by exit status whether an image has a key slot for a host",
		Long:  "Exit status 0: a slot for every document, or for one of the hashes. 1: not. 2: wrong usage.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(docs) == 0) == (hashFile == "") {
				return usageError{errors.New("give host key documents by -k, or a file of host key hashes by --key-hashes")}
			}
			f, size, err := openRegular(args[0])
			if err != nil {
				return fmt.Errorf("open image: %w", err)
			}
			defer f.Close()
			img, err := seimage.Open(f, size)
			if err != nil {
				return err
			}
			if hashFile != "" {
				return testHashes(cmd, img, hashFile)
			}
			missing := false
			for _, path := range docs {
				doc, err := readDocument(path, cmd.ErrOrStderr())
				if err != nil {
					return err
				}
				word := "has a key slot"
				if !img.Header.HasSlot(doc.Hash()) {
					word, missing = "no key slot", true
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s (%x)\n", path, word, doc.Hash())
			}
			if missing {
				return statusError(exitFailure)
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&docs, "host-key-document", "k", nil, "host key document (repeatable)")
	cmd.Flags().StringVar(&hashFile, "key-hashes", "", "file of host key hashes, such as /sys/firmware/uv/keys/all")
	return cmd
}

// testHashes looks for one of the hashes in a file of hex words.
func testHashes(cmd *cobra.Command, img *seimage.Image, path string) error {
	text, err := readSmall(path, 1<<20)
	if err != nil {
		return fmt.Errorf("read host key hashes: %w", err)
	}
	words := bytes.Fields(text)
	for _, word := range words {
		var hash [32]byte
		word = bytes.TrimPrefix(word, []byte("0x"))
		if len(word) != 64 {
			return fmt.Errorf("read host key hashes %s: %.70q is no SHA-256 in hex", path, word)
		}
		if _, err := hex.Decode(hash[:], word); err != nil {
			return fmt.Errorf("read host key hashes %s: %w", path, err)
		}
		if img.Header.HasSlot(hash) {
			fmt.Fprintf(cmd.OutOrStdout(), "has a key slot (%x)\n", hash)
			return nil
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "no key slot for any of %d host key hashes\n", len(words))
	return statusError(exitFailure)
}

// readKey reads a key file of exactly this many bytes.
func readKey(path string, size int) (secret.Bytes, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	defer f.Close()
	key := make(secret.Bytes, size+1)
	n, err := io.ReadFull(f, key)
	if n != size || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		key.Wipe()
		if n > size {
			return nil, fmt.Errorf("read key %s: it has more than %d bytes", path, size)
		}
		return nil, fmt.Errorf("read key %s: it has %d bytes, wants %d", path, n, size)
	}
	return key[:size], nil
}

// openRegular opens a file whose size counts.
func openRegular(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}
