package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/secexec/secexec/seimage"
)

// openImage opens an image that is only read; "-" is standard input. What comes
// through a pipe goes into a file without a name first: an image's parts are
// read in any order. It holds no more than the image does.
func openImage(path string) (*os.File, int64, error) {
	if path != "-" {
		f, size, err := openRegular(path)
		if err != nil {
			return nil, 0, fmt.Errorf("open image: %w", err)
		}
		return f, size, nil
	}
	if info, err := os.Stdin.Stat(); err == nil && info.Mode().IsRegular() {
		return os.Stdin, info.Size(), nil
	}
	f, err := os.CreateTemp("", "secexec-image-")
	if err != nil {
		return nil, 0, fmt.Errorf("open image: %w", err)
	}
	_ = os.Remove(f.Name())
	size, err := io.Copy(f, os.Stdin)
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("read image from standard input: %w", err)
	}
	return f, size, nil
}

// chatter is how much info and test say on the side: pvimg's -v, -q, and -V from
// older days.
type chatter struct {
	verbose, older int
	quiet          bool
}

func (c *chatter) add(flags *pflag.FlagSet) {
	flags.CountVarP(&c.verbose, "verbose", "v", "tell where the SE header was found")
	flags.CountVarP(&c.older, "old-verbose", "V", "")
	_ = flags.MarkHidden("old-verbose")
	flags.BoolVarP(&c.quiet, "quiet", "q", false, "no warnings")
}

func (c *chatter) check() error {
	if c.quiet && c.verbose+c.older > 0 {
		return errors.New("--quiet and --verbose exclude each other")
	}
	return nil
}

// found tells of an opened image.
func (c *chatter) found(cmd *cobra.Command, path string, img *seimage.Image) {
	if c.verbose+c.older > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: SE header at 0x%x, %d bytes\n", path, img.HeaderAddr, img.Header.Size())
	}
}
