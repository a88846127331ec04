package ultravisor

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"

	"github.com/secexec/secexec/seimage"
	"github.com/secexec/secexec/seimage/bootloader"
)

// ErrParts says that an admitted image's parts are not where its own boot
// loader would look for them.
var ErrParts = errors.New("image's parts not found")

// Unpacked is an image file that was admitted with a host's private key. Its
// owner calls Wipe.
type Unpacked struct {
	Image *seimage.Image
	PSW   seimage.PSW

	r    io.ReaderAt
	o    *opened
	args bootloader.Stage3bArgs
}

// OpenFile admits an image file as firmware would and finds its parts. All
// digests are verified before it returns.
func OpenFile(r io.ReaderAt, size int64, host *ecdh.PrivateKey) (*Unpacked, error) {
	img, err := seimage.Open(r, size)
	if err != nil {
		return nil, err
	}
	ipib := *img.IPIB
	// stage3a fills these in before the ultravisor sees them.
	ipib.HeaderAddr, ipib.HeaderSize = img.HeaderAddr, uint64(img.Header.Size())
	o, err := New(host).admit(r, &ipib)
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

// Wipe overwrites the image's secrets.
func (u *Unpacked) Wipe() { u.o.secrets.Wipe() }

// Kernel returns the kernel in plain text and its size in bytes.
func (u *Unpacked) Kernel() (io.Reader, int64) { return u.part(u.args.Kernel) }

// Initrd returns the initrd; size 0 means that there is none.
func (u *Unpacked) Initrd() (io.Reader, int64) { return u.part(u.args.Initrd) }

// Cmdline returns the kernel command line without the NUL that ends it.
func (u *Unpacked) Cmdline() (io.Reader, int64) {
	c := u.args.Cmdline
	if c.Size > 0 {
		c.Size--
	}
	return u.part(c)
}

// findParts reads the arguments of stage3b, where the guest starts.
func (u *Unpacked) findParts() error {
	comps := u.Image.IPIB.Components
	for _, c := range comps {
		if u.PSW.Addr < c.Addr || u.PSW.Addr >= c.Addr+c.Size || c.Size > 1<<20 {
			continue
		}
		stage3b := make([]byte, c.Size)
		if _, err := io.ReadFull(&pageReader{u: u, c: c}, stage3b); err != nil {
			return fmt.Errorf("read stage3b: %w", err)
		}
		args, err := bootloader.FindStage3bArgs(stage3b, comps[0].Addr, comps[0].Size)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrParts, err)
		}
		u.args = args
		for _, p := range []bootloader.Range{args.Kernel, args.Initrd, args.Cmdline} {
			if p.Size > 0 && u.component(p) < 0 {
				return fmt.Errorf("%w: no component holds 0x%x of %d bytes", ErrParts, p.Addr, p.Size)
			}
		}
		return nil
	}
	return fmt.Errorf("%w: no component holds the start address 0x%x", ErrParts, u.PSW.Addr)
}

// component returns the index of the component that starts with p, or -1.
func (u *Unpacked) component(p bootloader.Range) int {
	for i, c := range u.Image.IPIB.Components {
		if c.Addr == p.Addr && p.Size <= c.Size {
			return i
		}
	}
	return -1
}

func (u *Unpacked) part(p bootloader.Range) (io.Reader, int64) {
	i := u.component(p)
	if i < 0 || p.Size == 0 {
		return io.LimitReader(nil, 0), 0
	}
	return io.LimitReader(&pageReader{u: u, c: u.Image.IPIB.Components[i]}, int64(p.Size)), int64(p.Size)
}

// pageReader reads a component in plain text.
type pageReader struct {
	u      *Unpacked
	c      seimage.IPIBComponent
	offset uint64
	buf    []byte // backing store of rest
	rest   []byte // decrypted, not yet given
}

func (p *pageReader) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		if p.offset == p.c.Size {
			return 0, io.EOF
		}
		if p.buf == nil {
			p.buf = make([]byte, min(64<<10, p.c.Size))
		}
		chunk := p.buf[:min(uint64(len(p.buf)), p.c.Size-p.offset)]
		if n, err := p.u.r.ReadAt(chunk, int64(p.c.Addr+p.offset)); n < len(chunk) {
			return 0, errors.Join(err, io.ErrUnexpectedEOF)
		}
		if p.u.o.cipher != nil {
			p.u.o.decrypt(chunk, p.c.TweakPrefix, p.offset)
		}
		p.offset += uint64(len(chunk))
		p.rest = chunk
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}
