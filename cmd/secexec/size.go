package main

import (
	"fmt"
	"strconv"

	"github.com/secexec/secexec/owner/buildfile"
)

// byteSize is a flag in bytes with the suffixes K, M, G and T, powers of 1024.
type byteSize int64

func (s *byteSize) String() string {
	if *s == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*s), 10)
}

func (s *byteSize) Type() string { return "size" }

func (s *byteSize) Set(text string) error {
	n, err := buildfile.ParseSize(text)
	if err != nil {
		return err
	}
	*s = byteSize(n)
	return nil
}

// mib shows bytes as people read them.
func mib(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
