package main

import (
	"fmt"
	"io"
	"os"
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
