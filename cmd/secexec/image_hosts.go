package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/hostkey"
	"github.com/secexec/secexec/seimage"
)

// keyHashes is where Linux shows the hashes of this machine's host keys.
const keyHashes = "/sys/firmware/uv/keys/all"

// hostCheck is one question to an image and its answer.
type hostCheck struct {
	Source   string `json:"source"` // file, or the name of a line in it
	Hash     string `json:"phkh_hex"`
	Included bool   `json:"included"`
}

func newImageTest() *cobra.Command {
	var docs []string
	var hashFile, format string
	var all, asJSON bool
	var talk volume
	cmd := &cobra.Command{
		Use:   "test IMAGE (-k DOC... | --key-hashes[=FILE])",
		Short: "Tell by exit status whether an image has a key slot for a host",
		Long: `Test looks for key slots of hosts in an image; - is standard input. Exit status
0: a slot for one of the documents or hashes (with --all: for every document).
1: none, or an error. 2: wrong usage. These are pvimg test's.

Nothing is verified: neither that the documents are IBM's nor that the header is
authentic (info --hdr-key tells that).`,
		Example: `  secexec image test -k HKD-8562-1234567.crt boot.seimg
  secexec image test --key-hashes boot.seimg`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, _, err := talk.writers(cmd); err != nil {
				return usageError{err}
			}
			switch {
			case len(docs) == 0 && hashFile == "":
				return usageError{errors.New("give host key documents by -k, or a file of host key hashes by --key-hashes=FILE")}
			case len(docs) > 0 && hashFile != "":
				return usageError{errors.New("--key-hashes excludes --host-key-document")}
			case all && hashFile != "":
				return usageError{errors.New("--all is for host key documents: one machine needs one slot")}
			case format != "" && format != "text" && format != "json":
				return usageError{fmt.Errorf("no format %q: text or json", format)}
			}
			file, size, err := openImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			img, err := seimage.OpenHeader(file, size)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			talk.found(cmd, args[0], img)
			var checks []hostCheck
			if hashFile != "" {
				checks, err = checkHashes(img.Header, hashFile)
			} else {
				checks, err = checkDocuments(cmd, img.Header, paths(docs))
			}
			if err != nil {
				return err
			}
			included := 0
			for _, c := range checks {
				if c.Included {
					included++
				}
			}
			ok := included > 0 && (!all || included == len(checks))
			if err := showChecks(cmd, checks, ok, asJSON || format == "json", talk.quiet > 0); err != nil {
				return err
			}
			if !ok {
				return statusError(exitFailure)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&docs, "host-key-document", "k", nil, "host key document (repeatable)")
	f.StringVar(&hashFile, "key-hashes", "", "file of host key hashes; =FILE, or alone for this machine's, "+keyHashes)
	f.Lookup("key-hashes").NoOptDefVal = keyHashes
	f.BoolVar(&all, "all", false, "want a key slot for every document, not for one")
	talk.add(f)
	f.Lookup("quiet").Usage = "print nothing, the exit status tells"
	f.StringVar(&format, "format", "", "text or json")
	f.BoolVar(&asJSON, "json", false, "short for --format json")
	once(f)
	return cmd
}

func showChecks(cmd *cobra.Command, checks []hostCheck, ok, asJSON, quiet bool) error {
	switch {
	case quiet:
		return nil
	case asJSON:
		return printJSON(cmd, map[string]any{"included": ok, "checks": checks})
	}
	for _, c := range checks {
		words := "✘ no key slot"
		if c.Included {
			words = "✓ has a key slot"
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s (%s)\n", c.Source, words, c.Hash)
	}
	return nil
}

func checkDocuments(cmd *cobra.Command, h *seimage.Header, paths []string) (checks []hostCheck, err error) {
	for _, path := range paths {
		doc, err := readDocument(path, cmd.ErrOrStderr())
		if err != nil {
			return nil, err
		}
		hash := doc.Hash()
		checks = append(checks, hostCheck{path, hex.EncodeToString(hash[:]), h.HasSlot(hash)})
	}
	return checks, nil
}

// checkHashes asks for the hashes in a file: one on a line, the first that of
// the host key, the second that of the backup host key. Zeros stand for a key
// that is not there.
func checkHashes(h *seimage.Header, path string) (checks []hostCheck, err error) {
	text, err := readSmall(path, hostkey.MaxSize)
	if err != nil {
		if path == keyHashes {
			return nil, fmt.Errorf("read host key hashes: %w: only IBM Z with a kernel that lists them has this file; give another by --key-hashes=FILE", err)
		}
		return nil, fmt.Errorf("read host key hashes: %w", err)
	}
	for i, word := range bytes.Fields(text) {
		var hash [32]byte
		word = bytes.TrimPrefix(word, []byte("0x"))
		if len(word) != hex.EncodedLen(len(hash)) {
			return nil, fmt.Errorf("read host key hashes %s: %.70q is no SHA-256 in hex", path, word)
		}
		if _, err := hex.Decode(hash[:], word); err != nil {
			return nil, fmt.Errorf("read host key hashes %s: %w", path, err)
		}
		if hash == [32]byte{} {
			continue
		}
		source := fmt.Sprintf("key %d", i+1)
		if i < 2 {
			source = []string{"host key", "backup host key"}[i]
		}
		checks = append(checks, hostCheck{source, hex.EncodeToString(hash[:]), h.HasSlot(hash)})
	}
	if len(checks) == 0 {
		return nil, fmt.Errorf("read host key hashes %s: it holds none", path)
	}
	return checks, nil
}
