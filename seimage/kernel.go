package seimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What Linux for s390 says of itself in its raw image (arch/s390/boot/head.S,
// arch/s390/include/asm/setup.h).
const (
	kernelHead      = 0x11000 // bytes that the checks need
	kernelMagicAt   = 0x10008
	kernelMagic     = "S390EP"
	cmdlineLimitAt  = 0x10430 // u64
	oldCmdlineLimit = 896     // where that says 0
	kernelStart     = 0x10000 // where stage3b starts it

	// MaxKernelSize bounds a kernel; the largest distribution kernels have 30 MiB.
	MaxKernelSize = 1 << 30
	// MaxInitrdSize bounds an initrd.
	MaxInitrdSize = 16 << 30
)

// Errors of the parts that an image is made from.
var (
	ErrKernel  = errors.New("not an s390x Linux image")
	ErrInitrd  = errors.New("initrd too large")
	ErrCmdline = errors.New("kernel command line refused")
)

// CheckKernel refuses a file that Create would refuse as a kernel, or together
// with this command line, without reading all of it.
func CheckKernel(r io.ReaderAt, size int64, cmdline []byte) error {
	head := make([]byte, min(kernelHead, max(0, size)))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		return fmt.Errorf("read kernel: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	limit, err := checkKernel(head, size)
	if err != nil {
		return err
	}
	_, err = cmdlineBytes(cmdline, limit)
	return err
}

// checkKernel looks at a kernel's first kernelHead bytes and returns its limit
// for the command line, NUL included.
func checkKernel(head []byte, size int64) (int, error) {
	switch {
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return 0, fmt.Errorf("%w: it is an ELF file (vmlinux): give the raw image, vmlinuz or arch/s390/boot/bzImage", ErrKernel)
	case size > MaxKernelSize:
		return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrKernel, size, MaxKernelSize)
	case len(head) < kernelHead:
		return 0, fmt.Errorf("%w: %d bytes are too few for a kernel", ErrKernel, size)
	case string(head[kernelMagicAt:kernelMagicAt+len(kernelMagic)]) != kernelMagic:
		return 0, fmt.Errorf("%w: no %q at 0x%x: give the vmlinuz of an s390x distribution", ErrKernel, kernelMagic, kernelMagicAt)
	}
	limit := binary.BigEndian.Uint64(head[cmdlineLimitAt:])
	if limit == 0 {
		limit = oldCmdlineLimit
	}
	if limit > 1<<20 {
		return 0, fmt.Errorf("%w: it asks for command lines of %d bytes", ErrKernel, limit)
	}
	return int(limit), nil
}

// cmdlineBytes ends the command line with NUL where it has none.
func cmdlineBytes(cmdline []byte, limit int) ([]byte, error) {
	out := append([]byte(nil), cmdline...)
	if len(out) == 0 || out[len(out)-1] != 0 {
		out = append(out, 0)
	}
	if i := bytes.IndexByte(out, 0); i != len(out)-1 {
		return nil, fmt.Errorf("%w: NUL at byte %d of %d", ErrCmdline, i, len(out))
	}
	if len(out) > limit {
		return nil, fmt.Errorf("%w: %d bytes with the NUL, this kernel takes %d", ErrCmdline, len(out), limit)
	}
	return out, nil
}
