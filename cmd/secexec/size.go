package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
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
	number, shift := text, 0
	if i := strings.IndexAny(text, "KMGT"); i >= 0 && i == len(text)-1 {
		number, shift = text[:i], 10*(1+strings.IndexByte("KMGT", text[i]))
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64>>shift {
		return fmt.Errorf("%q is no size such as 512M or 2G", text)
	}
	*s = byteSize(n << shift)
	return nil
}

// mib shows bytes as people read them.
func mib(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
