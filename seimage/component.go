package seimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/secexec/secexec/seimage/bootloader"
)

// component is a part of an image on its way into it.
type component struct {
	kind   uint16
	src    io.Reader
	size   int64 // bytes before padding; Unsized until its end was read
	limit  int64 // at most so many
	tooBig error
	prefix uint64
	addr   uint64 // set when the component before has its size

	// For a seeded image: what the first reading gave, and this one's so far.
	want []byte
	sum  hash.Hash
}

// padded is the component's size in the image: whole pages, at least one.
func (c *component) padded() uint64 { return max(roundUp(uint64(c.size)), PageSize) }

// plan checks the parts and gives each its tweak prefix.
func (spec *Spec) plan(from entropy, sums *inputDigests) ([]*component, error) {
	head := make([]byte, kernelHead)
	if spec.Kernel.Size != Unsized {
		head = head[:min(kernelHead, max(0, spec.Kernel.Size))]
	}
	n, err := io.ReadFull(spec.Kernel.R, head)
	if spec.Kernel.Size == Unsized && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		spec.Kernel.Size, err = int64(n), nil // a pipe with less than a kernel
	}
	if err != nil {
		return nil, fmt.Errorf("read kernel: %w", err)
	}
	head = head[:n]
	check := checkKernel
	if spec.NoCheck {
		check = uncheckedKernel
	}
	limit, err := check(head, max(spec.Kernel.Size, int64(n)))
	if err != nil {
		return nil, err
	}
	cmdline, err := cmdlineBytes(spec.Cmdline, limit)
	if err != nil {
		return nil, err
	}
	initrd := spec.Initrd
	if initrd.R == nil {
		initrd = Source{bytes.NewReader(nil), 0}
	}
	if initrd.Size > MaxInitrdSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrInitrd, initrd.Size, int64(MaxInitrdSize))
	}
	kernel := io.MultiReader(bytes.NewReader(head), spec.Kernel.R)
	parts := []*component{
		{kind: KindKernel, src: kernel, size: spec.Kernel.Size, limit: MaxKernelSize, tooBig: ErrKernel},
		{kind: KindInitrd, src: initrd.R, size: initrd.Size, limit: MaxInitrdSize, tooBig: ErrInitrd},
		{kind: KindCmdline, src: bytes.NewReader(cmdline), size: int64(len(cmdline))},
		{kind: KindStage3b, size: int64(bootloader.Stage3bSize())},
	}
	for _, c := range parts {
		salt := make([]byte, 8)
		binary.BigEndian.PutUint16(salt, c.kind)
		copy(salt[2:], from.bytes(fmt.Sprintf("tweak %d", c.kind), 6))
		c.prefix = binary.BigEndian.Uint64(salt)
	}
	if sums != nil {
		sums.watch(parts[0], parts[1])
	}
	parts[3].src = &lazyReader{make: func() []byte {
		where := func(c *component) bootloader.Range { return bootloader.Range{Addr: c.addr, Size: uint64(c.size)} }
		return bootloader.Stage3b(bootloader.Stage3bArgs{
			Kernel: where(parts[0]), Initrd: where(parts[1]), Cmdline: where(parts[2]),
			PSWMask: MaskBAEA, PSWAddr: kernelStart,
		})
	}}
	return parts, nil
}

// uncheckedKernel is checkKernel for an owner who knows better: it wants no
// more than what stage3b itself insists on when it starts the kernel.
func uncheckedKernel(head []byte, size int64) (int, error) {
	switch {
	case size > MaxKernelSize:
		return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrKernel, size, MaxKernelSize)
	case len(head) < kernelHead:
		return 0, fmt.Errorf("%w: %d bytes: the boot loader starts nothing so small, check or no check", ErrKernel, size)
	}
	limit := binary.BigEndian.Uint64(head[cmdlineLimitAt:])
	if limit == 0 {
		limit = oldCmdlineLimit
	}
	return int(min(limit, 1<<20)), nil
}

// lazyReader makes its bytes when they are first read.
type lazyReader struct {
	make func() []byte
	r    *bytes.Reader
}

func (l *lazyReader) Read(b []byte) (int, error) {
	if l.r == nil {
		l.r = bytes.NewReader(l.make())
	}
	return l.r.Read(b)
}

// fill reads the component's next bytes into b, from this offset on. It
// returns their number and whether they are the last.
func (c *component) fill(b []byte, offset int64) (n int, last bool, err error) {
	if c.size != Unsized {
		b = b[:min(int64(len(b)), c.size-offset)]
	}
	n, err = io.ReadFull(c.src, b)
	if c.sum != nil {
		c.sum.Write(b[:n])
	}
	ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	at := offset + int64(n)
	switch {
	case err != nil && !ended:
		return n, false, fmt.Errorf("read %s: %w", c.name(), err)
	case c.size == Unsized && at > c.limit:
		return n, false, fmt.Errorf("%w: more than %d bytes", c.tooBig, c.limit)
	case c.size == Unsized && ended:
		c.size = at
		return n, true, nil
	case c.size == Unsized:
		return n, false, nil
	case ended && n < len(b):
		return n, false, fmt.Errorf("read %s: %w: it ends at byte %d of %d", c.name(), ErrSource, at, c.size)
	case at < c.size:
		return n, false, nil
	}
	var more [1]byte
	if k, _ := io.ReadFull(c.src, more[:]); k != 0 {
		return n, false, fmt.Errorf("read %s: %w: it is longer than %d bytes", c.name(), ErrSource, c.size)
	}
	if c.sum != nil && !bytes.Equal(c.sum.Sum(nil), c.want) {
		return n, false, fmt.Errorf("read %s: %w: its second reading gave other bytes", c.name(), ErrSource)
	}
	return n, true, nil
}

func (c *component) name() string {
	switch c.kind {
	case KindKernel:
		return "kernel"
	case KindInitrd:
		return "initrd"
	case KindCmdline:
		return "kernel command line"
	}
	return "boot loader"
}
