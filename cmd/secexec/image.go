package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/secret"
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
