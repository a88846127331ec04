package seimage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage/bootloader"
)

// File is an image that can be changed in place. Sync brings all writes before
// it to the disk.
type File interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error
}

// ErrTrailing says that bytes follow the image.
var ErrTrailing = errors.New("bytes after the end of the image")

// ErrLoader says that an image's boot loader does not tell where its SE header
// is, so that the header can't be moved.
var ErrLoader = errors.New("unknown boot loader")

// Retarget changes the key slots of an image by rewriting its SE header alone,
// as [Header.Retarget] does, and returns the new header. Nobody else may write
// to the file meanwhile.
//
// It can be cut off at any moment: what stays is an image with the old header
// or with the new one, which the next Retarget tidies. The header's place takes
// several writes, so the new header goes behind the end of the image first and
// the boot loader's arguments, 24 bytes, are switched to it; then it is written
// to its own place and they are switched back.
//
//	write behind the end | switch | write in place | switch | cut off the end
//
// with a Sync at each bar. An image without metadata (Image.Legacy) can be
// changed too, but tools lose it where that is cut off: change a copy. Loaders follow the arguments; tools follow the
// metadata, which is switched with them, each of the two pointing to a whole
// header at every moment.
func Retarget(f File, size int64, headerKey secret.Bytes, change Slots) (*Header, error) {
	img, err := Open(f, size)
	if err != nil {
		return nil, err
	}
	r := &rewriter{f: f, img: img, end: size}
	if err := r.locate(); err != nil {
		return nil, fmt.Errorf("retarget image: %w", err)
	}
	h, err := r.current.Retarget(headerKey, change)
	if err != nil {
		return nil, fmt.Errorf("retarget image: %w", err)
	}
	if uint64(h.Size()) > r.room {
		fit := (int64(r.room) - fixedSize - tagSize - int64(len(h.Encrypted))) / SlotSize
		return nil, fmt.Errorf("retarget image: %w: %d, this image has room for %d", ErrRoom, len(h.Slots), max(0, fit))
	}
	if err := r.rewrite(h); err != nil {
		return nil, fmt.Errorf("retarget image: %w", err)
	}
	return h, nil
}

// rewriter knows an image's places.
type rewriter struct {
	f       File
	img     *Image
	current *Header // the one that the boot loader names
	at      uint64  // its address
	args    uint64  // address of stage3a's arguments
	home    uint64  // the header's own place
	room    uint64  // bytes there
	end     int64   // of the image, without what a cut off Retarget left
	spare   uint64  // where a second header can stand, behind the end
}

// locate finds the places and checks that they are where images have them:
// nothing that it reads is authentic.
func (r *rewriter) locate() error {
	if err := r.findArgs(); err != nil {
		return err
	}
	if r.home = r.img.HeaderAddr; r.home >= r.img.IPIBAddr && !r.img.Legacy {
		r.home = max(roundUp(r.args+bootloader.Stage3aArgsSize), MinHeaderAddr) // cut off between the switches
	}
	if r.home < r.args+bootloader.Stage3aArgsSize {
		return fmt.Errorf("%w: the SE header is before its end", ErrLoader)
	}
	limit := r.home + MaxHeaderSize
	for _, addr := range r.used() {
		if addr >= r.home {
			limit = min(limit, addr)
		}
	}
	r.room = limit - r.home
	if err := r.findEnd(); err != nil {
		return err
	}
	if r.at != r.home && r.at != r.spare || r.room < uint64(r.current.Size()) {
		return fmt.Errorf("%w: the SE header is at 0x%x", ErrLoader, r.at)
	}
	return nil
}

// used lists where something begins that is not the header.
func (r *rewriter) used() []uint64 {
	addrs := []uint64{r.img.IPIBAddr}
	for _, c := range r.img.IPIB.Components {
		addrs = append(addrs, c.Addr)
	}
	return addrs
}

// findEnd tells the image from what a Retarget that was cut off left behind
// it: up to a header's size on the next page, which power loss may have left
// in pieces, and zeros before it.
func (r *rewriter) findEnd() error {
	end := r.img.IPIBAddr + uint64(r.img.IPIB.Size())
	for _, c := range r.img.IPIB.Components {
		end = max(end, c.Addr+c.Size)
	}
	if r.img.Legacy {
		end = roundUp(end) // such files are whole pages
	}
	r.spare = roundUp(end)
	size := uint64(r.end)
	r.end = int64(end)
	if size <= end {
		return nil
	}
	if size > r.spare+MaxHeaderSize {
		return fmt.Errorf("%w: the image ends at byte %d, the file at %d", ErrTrailing, end, size)
	}
	gap, err := r.img.read(end, int(min(r.spare, size)-end)+1)
	if err != nil {
		return err
	}
	for _, b := range gap[:min(r.spare, size)-end] {
		if b != 0 {
			return fmt.Errorf("%w: the image ends at byte %d, the file at %d", ErrTrailing, end, size)
		}
	}
	return nil
}

// findArgs finds stage3a's arguments, ours or another builder's: the one place
// whose offsets lead to the IPIB and to a header of the size that it says.
func (r *rewriter) findArgs() error {
	limit := uint64(MinHeaderAddr + 16*PageSize)
	for _, addr := range r.used() {
		if addr > Stage3aAddr {
			limit = min(limit, addr)
		}
	}
	code, err := r.img.read(Stage3aAddr, int(limit-Stage3aAddr))
	if err != nil {
		return err
	}
	be := binary.BigEndian
	for at := 0; at+bootloader.Stage3aArgsSize <= len(code); at++ {
		base := Stage3aAddr + uint64(at)
		b := code[at:]
		if be.Uint64(b[16:]) != r.img.IPIBAddr-base {
			continue
		}
		addr, size := base+be.Uint64(b), be.Uint64(b[8:])
		if addr >= uint64(r.img.size) {
			continue
		}
		raw, err := r.img.read(addr, MaxHeaderSize)
		if err != nil {
			return err
		}
		if h, err := ParseHeader(raw); err == nil && uint64(h.Size()) == size {
			r.current, r.at, r.args = h, addr, base
			return nil
		}
	}
	return fmt.Errorf("%w: nothing in it leads to the SE header", ErrLoader)
}

// rewrite brings the header into the image in an order that can be cut off
// anywhere.
func (r *rewriter) rewrite(h *Header) error {
	if r.at != r.home || r.img.HeaderAddr != r.home {
		if err := r.tidy(); err != nil {
			return err
		}
	}
	raw := h.Marshal()
	behind := append(make([]byte, r.spare-uint64(r.end)), raw...)
	if err := r.write(behind, uint64(r.end)); err != nil {
		return err
	}
	if err := r.f.Sync(); err != nil {
		return err
	}
	if err := r.settle(raw); err != nil {
		return err
	}
	if err := r.f.Truncate(r.end); err != nil {
		return err
	}
	return r.f.Sync()
}

// tidy ends what a Retarget that was cut off began: header and pointers come
// back to the header's own place.
func (r *rewriter) tidy() error {
	raw := r.current.Marshal()
	if r.at == r.spare {
		return r.settle(raw)
	}
	return r.point(r.home, len(raw))
}

// settle brings a header that stands behind the end to its own place.
func (r *rewriter) settle(raw []byte) error {
	if err := r.point(r.spare, len(raw)); err != nil {
		return err
	}
	home := make([]byte, r.room)
	copy(home, raw) // zeros over what is left of a longer one
	if err := r.write(home, r.home); err != nil {
		return err
	}
	if !r.img.Legacy { // whose loader alone fills these in
		ipib := binary.BigEndian.AppendUint64(nil, r.home)
		ipib = binary.BigEndian.AppendUint64(ipib, uint64(len(raw)))
		if err := r.write(ipib, r.img.IPIBAddr+ipibHeader+112); err != nil {
			return err
		}
	}
	if err := r.f.Sync(); err != nil {
		return err
	}
	return r.point(r.home, len(raw))
}

// point makes loader and tools take the header from this address, for good.
func (r *rewriter) point(addr uint64, size int) error {
	be := binary.BigEndian
	args := be.AppendUint64(nil, addr-r.args)
	args = be.AppendUint64(args, uint64(size))
	args = be.AppendUint64(args, r.img.IPIBAddr-r.args)
	if err := r.write(args, r.args); err != nil {
		return err
	}
	if !r.img.Legacy {
		if err := r.write(Metadata{addr, r.img.IPIBAddr}.marshal(), MetadataAddr); err != nil {
			return err
		}
	}
	return r.f.Sync()
}

func (r *rewriter) write(b []byte, addr uint64) error {
	if _, err := r.f.WriteAt(b, int64(addr)); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}
