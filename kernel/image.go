package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxImage bounds a kernel image, in bytes. Distributions' have 5 to 15 MiB.
const MaxImage = 256 << 20

// ErrNotImage is wrapped by errors about a file that is no raw s390x Linux
// image.
var ErrNotImage = errors.New("not a raw s390x Linux image")

// Places in an image: see the kernel's arch/s390/boot/head.S and struct
// parmarea in arch/s390/include/asm/setup.h.
const (
	magicAt   = 0x10008 // "S390EP"
	versionAt = 0x10428 // since Linux 5.2: 8 bytes, big-endian: where the version's text is, or 0
	headSize  = 0x10480 // the parameters end and the command line begins
	magicText = "S390EP"
)

// maxVersion bounds the version's text, in bytes: 64 of a release, who built
// it, and `uname -v`.
const maxVersion = 512

// imageRelease reads the release, as `uname -r` prints it, from an image; ""
// where the image does not tell it.
func imageRelease(r io.ReaderAt, size int64) (string, error) {
	var magic [len(magicText)]byte
	if size < headSize {
		return "", fmt.Errorf("%w: only %d bytes", ErrNotImage, size)
	}
	if size > MaxImage {
		return "", fmt.Errorf("%w: %d bytes, at most %d", ErrNotImage, size, int64(MaxImage))
	}
	if _, err := r.ReadAt(magic[:], magicAt); err != nil {
		return "", fmt.Errorf("read kernel: %w", err)
	}
	if string(magic[:]) != magicText {
		return "", fmt.Errorf("%w: %s", ErrNotImage, whatElse(r))
	}
	var pointer [8]byte
	if _, err := r.ReadAt(pointer[:], versionAt); err != nil {
		return "", fmt.Errorf("read kernel: %w", err)
	}
	at := binary.BigEndian.Uint64(pointer[:])
	if at == 0 || at >= uint64(size) {
		return "", nil
	}
	text := make([]byte, min(maxVersion, size-int64(at)))
	if _, err := r.ReadAt(text, int64(at)); err != nil && err != io.EOF {
		return "", fmt.Errorf("read kernel: %w", err)
	}
	version, _, ended := strings.Cut(string(text), "\x00")
	release, _, _ := strings.Cut(version, " ")
	if !ended || !plainRelease(release) {
		return "", nil
	}
	return release, nil
}

// plainRelease tells what can be a kernel's release: it begins with a digit
// and goes into file names.
func plainRelease(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("+-._~", c) >= 0:
		default:
			return false
		}
	}
	return s != "" && len(s) <= 64 && '0' <= s[0] && s[0] <= '9'
}

// whatElse guesses what was given in an image's place.
func whatElse(r io.ReaderAt) string {
	var b [0x206]byte
	if _, err := r.ReadAt(b[:], 0); err != nil {
		return "it lacks the image's mark"
	}
	switch {
	case string(b[:4]) == "\x7fELF":
		return "it is an ELF file; the image is arch/s390/boot/bzImage, or vmlinuz in /boot"
	case string(b[0x202:0x206]) == "HdrS":
		return "it is a kernel for x86"
	case string(b[:2]) == "MZ":
		return "it is an EFI program"
	case string(b[:2]) == "\x1f\x8b":
		return "it is a gzip file"
	}
	return "it lacks the image's mark"
}
