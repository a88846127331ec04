package ultravisor

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage"
	"github.com/secexec/secexec/seimage/bootloader"
)

var (
	// ErrParts says that an admitted image's parts are not where its own boot
	// loader would look for them.
	ErrParts = errors.New("image's parts not found")
	// ErrChanged says that an image's pages are not those any more that were
	// verified: something writes to the file.
	ErrChanged = errors.New("image changed while it was read")
)

// maxStage3b bounds the component that is searched for stage3b's arguments, in
// bytes; those known have less than 16 KiB.
const maxStage3b = 1 << 20

// Unpacked is an image file that was admitted with a host's private key. Its
// owner calls Wipe.
type Unpacked struct {
	Image *seimage.Image
	PSW   seimage.PSW // where the guest starts: stage3b

	r    io.ReaderAt
	o    *opened
	args bootloader.Stage3bArgs
}

// OpenFile admits an image file as firmware would and finds its parts: a
// *Refusal says what firmware would say. All digests are verified before it
// returns; memory use does not grow with the image.
func OpenFile(r io.ReaderAt, size int64, host *ecdh.PrivateKey) (*Unpacked, error) {
	u, err := openFile(r, size, New(host))
	if err == nil || errors.As(err, new(*Refusal)) {
		return u, err
	}
	if r := refuseHeader(err); r != nil {
		return nil, r
	}
	if errors.Is(err, seimage.ErrIPIB) {
		return nil, refuseIPIB(err)
	}
	return nil, err
}

// OpenFileAsOwner is OpenFile with the header protection key, which the caller
// keeps. No key slot is looked at. Another key, or a header that was changed, is
// seimage.ErrHeaderTag.
func OpenFileAsOwner(r io.ReaderAt, size int64, headerKey secret.Bytes) (*Unpacked, error) {
	u, err := openFile(r, size, &Ultravisor{headerKey: headerKey})
	if errors.Is(err, seimage.ErrHeaderTag) {
		return nil, seimage.ErrHeaderTag // a host's words would not fit
	}
	return u, err
}

func openFile(r io.ReaderAt, size int64, v *Ultravisor) (*Unpacked, error) {
	img, err := seimage.Open(r, size)
	if err != nil {
		return nil, err
	}
	ipib := *img.IPIB
	// stage3a fills these in before the ultravisor sees them.
	ipib.HeaderAddr, ipib.HeaderSize = img.HeaderAddr, uint64(img.Header.Size())
	o, err := v.admit(r, &ipib)
	if err != nil {
		return nil, err
	}
	u := &Unpacked{Image: img, PSW: o.secrets.PSW, r: r, o: o}
	if err := u.findParts(); err != nil {
		u.Wipe()
		return nil, err
	}
	return u, nil
}

// Wipe overwrites the image's secrets; readers of parts are of no use after it.
func (u *Unpacked) Wipe() { u.o.wipe() }

// Kernel returns the kernel in plain text and its size in bytes. A reader that
// meets pages which are not those that were verified ends with ErrChanged: what
// it gave is the part only when it ended with io.EOF.
func (u *Unpacked) Kernel() (io.Reader, int64) { return u.part(u.args.Kernel, u.args.Kernel.Size) }

// Initrd returns the initrd, as Kernel does; size 0 means that there is none.
func (u *Unpacked) Initrd() (io.Reader, int64) { return u.part(u.args.Initrd, u.args.Initrd.Size) }

// Cmdline returns the kernel command line, as Kernel does, without the NUL that
// ends it.
func (u *Unpacked) Cmdline() (io.Reader, int64) {
	return u.part(u.args.Cmdline, max(1, u.args.Cmdline.Size)-1)
}

// findParts reads the arguments of stage3b, where the guest starts.
func (u *Unpacked) findParts() error {
	comps := u.Image.IPIB.Components
	for i, c := range comps {
		if u.PSW.Addr < c.Addr || u.PSW.Addr >= c.Addr+c.Size {
			continue
		}
		if c.Size > maxStage3b {
			return fmt.Errorf("%w: the component that starts the guest has %d bytes, at most %d", ErrParts, c.Size, maxStage3b)
		}
		stage3b := make([]byte, c.Size)
		if _, err := io.ReadFull(u.component(i, c.Size), stage3b); err != nil {
			return fmt.Errorf("read stage3b: %w", err)
		}
		args, err := bootloader.FindStage3bArgs(stage3b, comps[0].Addr, comps[0].Size)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrParts, err)
		}
		u.args = args
		for _, p := range []bootloader.Range{args.Kernel, args.Initrd, args.Cmdline} {
			if p.Size > 0 && u.find(p) < 0 {
				return fmt.Errorf("%w: no component holds 0x%x of %d bytes", ErrParts, p.Addr, p.Size)
			}
		}
		return nil
	}
	return fmt.Errorf("%w: no component holds the start address 0x%x", ErrParts, u.PSW.Addr)
}

// find returns the index of the component that p fills but for less than a
// page, or -1.
func (u *Unpacked) find(p bootloader.Range) int {
	for i, c := range u.Image.IPIB.Components {
		if c.Addr == p.Addr && p.Size <= c.Size && c.Size-p.Size < seimage.PageSize {
			return i
		}
	}
	return -1
}

// part reads the first bytes of a part that findParts has found.
func (u *Unpacked) part(p bootloader.Range, size uint64) (io.Reader, int64) {
	if p.Size == 0 {
		return strings.NewReader(""), 0
	}
	return u.component(u.find(p), size), int64(size)
}
