package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/seimage"
)

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
