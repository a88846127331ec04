package kernel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/secexec/secexec/compressed"
	"github.com/secexec/secexec/cpio"
)

// The file format is rpm-package-file(7) and the RPM reference manual's
// "Package format v4": a lead of 96 bytes that only tells an RPM file, the
// signature header, padded to 8 bytes, the main header, and the payload, a
// compressed cpio archive. All numbers are big-endian.
const (
	rpmMagic    = "\xed\xab\xee\xdb"
	rpmLeadSize = 96

	rpmHeaderMagic = "\x8e\xad\xe8\x01\x00\x00\x00\x00" // version 1 and 4 reserved bytes
	rpmIntroSize   = 16
	rpmEntrySize   = 16
	maxRPMEntries  = 1 << 16  // as rpm has it
	maxRPMStore    = 64 << 20 // bytes; rpm takes 256 MB. A kernel's is under 2 MB
)

// Tags of the main header, and types of values.
const (
	rpmArch           = 1022
	rpmSource         = 1044 // the source package's name: binary packages have it
	rpmPayloadFormat  = 1124
	rpmCompressor     = 1125
	rpmDigest         = 5092 // of the payload, compressed, in hexadecimal
	rpmDigestAlgo     = 5093
	rpmInt32          = 4
	rpmString         = 6
	rpmStringArray    = 8
	rpmSHA256         = 8
	rpmDefaultArchive = "cpio"
)

// rpmHeader is a header structure: an index over a store of values.
type rpmHeader struct {
	entries []rpmEntry
	store   []byte
}

type rpmEntry struct{ tag, kind, at, count uint32 }

// readRPMHeader reads a header structure.
func readRPMHeader(r io.Reader) (*rpmHeader, error) {
	var intro [rpmIntroSize]byte
	if _, err := io.ReadFull(r, intro[:]); err != nil {
		return nil, noEOF(err)
	}
	if string(intro[:8]) != rpmHeaderMagic {
		return nil, fmt.Errorf("%w: no RPM header", ErrPackage)
	}
	n, size := binary.BigEndian.Uint32(intro[8:]), binary.BigEndian.Uint32(intro[12:])
	if n > maxRPMEntries || size > maxRPMStore {
		return nil, fmt.Errorf("%w: an RPM header of %d entries and %d bytes", ErrPackage, n, size)
	}
	// Grown as bytes come: a length alone costs the sender nothing.
	var b bytes.Buffer
	total := int64(n)*rpmEntrySize + int64(size)
	if got, err := io.Copy(&b, io.LimitReader(r, total)); err != nil || got < total {
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	h := &rpmHeader{entries: make([]rpmEntry, n), store: b.Bytes()[n*rpmEntrySize:]}
	for i := range h.entries {
		e := b.Bytes()[i*rpmEntrySize:]
		h.entries[i] = rpmEntry{
			binary.BigEndian.Uint32(e), binary.BigEndian.Uint32(e[4:]), binary.BigEndian.Uint32(e[8:]), binary.BigEndian.Uint32(e[12:]),
		}
		if h.entries[i].at >= size {
			return nil, fmt.Errorf("%w: RPM tag %d lies outside of its header", ErrPackage, h.entries[i].tag)
		}
	}
	return h, nil
}

// text returns a tag's string, or an array's first; "" where there is none.
func (h *rpmHeader) text(tag uint32) string {
	for _, e := range h.entries {
		if e.tag == tag && (e.kind == rpmString || e.kind == rpmStringArray) && e.count > 0 {
			if end := bytes.IndexByte(h.store[e.at:], 0); end >= 0 {
				return string(h.store[e.at:][:end])
			}
		}
	}
	return ""
}

// number returns a tag's first 32-bit number; 0 where there is none.
func (h *rpmHeader) number(tag uint32) uint32 {
	for _, e := range h.entries {
		if e.tag == tag && e.kind == rpmInt32 && e.count > 0 && len(h.store)-int(e.at) >= 4 {
			return binary.BigEndian.Uint32(h.store[e.at:])
		}
	}
	return 0
}

// readRPM unpacks an RPM package. Where its header has a SHA-256 of the payload,
// as all since rpm 4.14, it must match; signatures are not looked at.
func readRPM(ctx context.Context, r io.Reader, s *spool) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var lead [rpmLeadSize]byte
	if _, err := io.ReadFull(in, lead[:]); err != nil {
		return noEOF(err)
	}
	if string(lead[:4]) != rpmMagic {
		return fmt.Errorf("%w: no RPM lead", ErrPackage)
	}
	signature, err := readRPMHeader(in)
	if err != nil {
		return fmt.Errorf("signature header: %w", err)
	}
	if _, err := in.Discard(-len(signature.store) & 7); err != nil {
		return noEOF(err)
	}
	h, err := readRPMHeader(in)
	if err != nil {
		return fmt.Errorf("main header: %w", err)
	}
	if err := checkArch(h.text(rpmArch)); err != nil {
		return err
	}
	if h.text(rpmSource) == "" {
		return fmt.Errorf("%w: it is a source package", ErrPackage)
	}
	if f := h.text(rpmPayloadFormat); f != rpmDefaultArchive && f != "" {
		return fmt.Errorf("%w: its payload is %.20q, not cpio", ErrPackage, f)
	}
	format := compressed.Format(h.text(rpmCompressor))
	if format == "" || format == "identity" {
		head, err := in.Peek(6)
		if err != nil && err != io.EOF {
			return err
		}
		format = compressed.Detect(head)
	}
	digest := sha256.New()
	payload := io.TeeReader(in, digest)
	content, err := compressed.NewReader(payload, format)
	if err != nil {
		return fmt.Errorf("%w: decompress payload: %w", ErrPackage, err)
	}
	defer content.Close()
	if err := readRPMPayload(ctx, content, s); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, payload); err != nil {
		return err
	}
	if want := h.text(rpmDigest); want != "" && h.number(rpmDigestAlgo) == rpmSHA256 && want != hex.EncodeToString(digest.Sum(nil)) {
		return fmt.Errorf("%w: its payload is not what its header was made for: fetch it again", ErrPackage)
	}
	return nil
}

// readRPMPayload unpacks the cpio archive. Of hard links only the last has the
// content.
func readRPMPayload(ctx context.Context, r io.Reader, s *spool) error {
	limited := &io.LimitedReader{R: r, N: maxContent}
	archive := cpio.NewReader(limited)
	type node struct{ major, minor, inode uint32 }
	waiting := make(map[node][]string)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if limited.N == 0 {
			return fmt.Errorf("%w: unpacks to more than %d GiB", ErrPackage, int64(maxContent)>>30)
		}
		if err != nil {
			return fmt.Errorf("%w: payload: %w", ErrPackage, err)
		}
		if err := s.count(); err != nil {
			return err
		}
		name, wanted, err := keep(h.Name)
		if err != nil {
			return err
		}
		if !wanted || h.Mode&cpio.TypeMask != cpio.Regular {
			continue
		}
		id := node{h.Major, h.Minor, h.Inode}
		if h.Links > 1 && h.Size == 0 {
			waiting[id] = append(waiting[id], name)
			continue
		}
		if err := s.add(name, int64(h.Size), archive); err != nil {
			return err
		}
		if h.Links > 1 {
			for _, other := range waiting[id] {
				if err := s.link(other, name); err != nil {
					return err
				}
			}
			delete(waiting, id)
		}
	}
	for _, names := range waiting { // empty files, or linked to what is not kept
		for _, name := range names {
			if err := s.add(name, 0, bytes.NewReader(nil)); err != nil {
				return err
			}
		}
	}
	return nil
}
