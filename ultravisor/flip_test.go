package ultravisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/secexec/secexec/seimage"
)

// span is a range of bytes of a structure, and what firmware says when one of
// them has its lowest bit flipped.
type span struct {
	name    string
	size    int
	results []uint64 // any of them; none: no check can see it
}

// check flips each byte of a structure in turn; as s390x, emulated, where that
// takes 10 s, the first and the last of each span unless asked for all.
func check(t *testing.T, s *sealed, addr uint64, spans []span, try func(mem RAM) error) {
	mem := s.ram()
	at := addr
	all := runtime.GOARCH != "s390x" || os.Getenv("SECEXEC_LONG") != ""
	for _, sp := range spans {
		for i := range sp.size {
			if !all && i > 0 && i < sp.size-1 {
				at++
				continue
			}
			where := fmt.Sprintf("%s+%d", sp.name, i)
			mem[at] ^= 1
			err := try(mem)
			mem[at] ^= 1
			at++
			var r *Refusal
			switch {
			case len(sp.results) == 0:
				if err != nil {
					t.Errorf("%s: %v, but no check can see it", where, err)
				}
			case !errors.As(err, &r):
				t.Errorf("%s: error %v, wants a refusal", where, err)
			default:
				found := false
				for _, want := range sp.results {
					found = found || r.Result() == want
				}
				if !found {
					t.Errorf("%s: result 0x%016x, wants one of %#x", where, r.Result(), sp.results)
				}
			}
		}
	}
	if !bytes.Equal(mem, s.ram()) {
		t.Error("a refused image changed memory")
	}
}

const (
	tagBad    = 0x0002_0000_010a_0a02
	sizeBad   = 0x0002_0031_010a_0a02
	invalid   = 0x0402
	addrsBad  = 0x0004_001a_0102_0a02
	pagesBad  = 0x0004_001b_0102_0a02
	tweaksBad = 0x0004_001c_0102_0a02
	countBad  = 0x0004_001d_0102_0a02
	notThere  = 0x0003_0000_0005_0a02
)

// Each byte of the SE header counts.
func TestEachByteOfTheHeader(t *testing.T) {
	t.Parallel()
	s := common()
	spans := []span{
		{"magic", 8, []uint64{tagBad}},
		{"version", 4, []uint64{0x0002_0001_0104_0a02}},
		{"size", 4, []uint64{sizeBad}},
		{"iv", 12, []uint64{tagBad}},
		{"reserved", 4, []uint64{tagBad}},
		{"number of slots", 8, []uint64{sizeBad}},
		{"size of the encrypted area", 8, []uint64{sizeBad, 0x0002_0039_010a_0a02}},
		{"number of pages", 8, []uint64{tagBad}},
		{"plain-text flags", 8, []uint64{0x0002_0030_0106_0a02}},
		{"customer key", 160, []uint64{0x0002_000b_0108_0a02}},
		{"digests", 192, []uint64{tagBad}},
		{"this host's hash", 32, []uint64{0x0002_0005_0108_0a02}},
		{"this host's slot", 48, []uint64{0x0002_0000_0108_0a02}},
		{"the other host's slot", 80, []uint64{tagBad}},
		{"encrypted area", 128, []uint64{tagBad}},
		{"tag", 16, []uint64{tagBad}},
	}
	size := 0
	for _, sp := range spans {
		size += sp.size
	}
	if size != s.summary.Header.Size() {
		t.Fatalf("the test knows %d bytes of %d", size, s.summary.Header.Size())
	}
	check(t, s, s.summary.HeaderAddr, spans, func(mem RAM) error {
		u := New(host(t, 0))
		if err := u.SetParameters(mem, s.summary.IPIBAddr); err != nil {
			return err
		}
		_, err := u.Unpack(mem)
		return err
	})
	// Known plain-text flags are authentic too.
	mem := s.ram()
	for _, flag := range []seimage.Flags{seimage.AllowDump, seimage.NoEncryption, seimage.PCKMOAES, seimage.PCKMOHMAC, seimage.BackupKeys} {
		for bit := range 64 {
			if flag != 1<<(63-bit) {
				continue
			}
			at := s.summary.HeaderAddr + 56 + uint64(bit/8)
			mem[at] ^= 0x80 >> (bit % 8)
			var r *Refusal
			if _, err := unpack(New(host(t, 0)), mem, s.summary.IPIBAddr); !errors.As(err, &r) || r.Result() != tagBad {
				t.Errorf("flag %v: %v", flag, err)
			}
			mem[at] ^= 0x80 >> (bit % 8)
		}
	}
}

// Each byte of the IPIB counts, or has no effect: then the guest that starts is
// the same to the last byte.
func TestEachByteOfTheIPIB(t *testing.T) {
	t.Parallel()
	s := common()
	n := len(s.summary.IPIB.Components)
	some := []uint64{invalid, addrsBad, pagesBad, tweaksBad, countBad, notThere}
	spans := []span{
		// Up to a page the block may be longer than what it lists.
		{"length", 2, []uint64{invalid}}, {"length's low half", 2, nil},
		{"flags", 1, nil}, {"reserved", 2, nil}, {"version", 1, []uint64{invalid}},
		{"block length", 4, []uint64{invalid}}, {"type", 1, []uint64{invalid}}, {"reserved", 3, nil},
		{"loadparm", 8, nil}, {"reserved", 84, nil}, {"reserved", 3, nil}, {"block version: the C tool's is 0", 1, nil},
		{"reserved", 4, nil}, {"number of components", 4, []uint64{invalid}},
		// In a boot stage3a overwrites these two with its own arguments.
		{"header address", 8, []uint64{invalid, tagBad}}, {"header size", 8, []uint64{invalid, sizeBad}},
	}
	for i := range n {
		spans = append(spans,
			span{fmt.Sprintf("tweak %d", i), 8, []uint64{invalid, tweaksBad}},
			span{fmt.Sprintf("address %d", i), 8, some},
			span{fmt.Sprintf("size %d", i), 8, some})
	}
	want := s.ram()
	start, err := unpack(New(host(t, 0)), want, s.summary.IPIBAddr)
	if err != nil {
		t.Fatal(err)
	}
	ipib := s.summary.IPIBAddr
	check(t, s, ipib, spans, func(mem RAM) error {
		u := New(host(t, 0))
		if err := u.SetParameters(mem, ipib); err != nil {
			return err
		}
		// In a copy: it is decrypted where it is admitted.
		unpacked := RAM(bytes.Clone(mem))
		psw, err := u.Unpack(unpacked)
		if err == nil && (psw != start || !bytes.Equal(unpacked[:ipib], want[:ipib])) {
			t.Error("an IPIB with a flipped byte starts another guest")
		}
		return err
	})
}

// A byte of each page.
func TestFlippedPages(t *testing.T) {
	t.Parallel()
	s := common()
	mem := s.ram()
	page := 0
	for _, c := range s.summary.IPIB.Components {
		for addr := c.Addr; addr < c.Addr+c.Size; addr += seimage.PageSize {
			page++
			at := addr + uint64(page*331)%seimage.PageSize
			mem[at] ^= 0x10
			var r *Refusal
			if _, err := unpack(New(host(t, 0)), mem, s.summary.IPIBAddr); !errors.As(err, &r) || r.Result() != pagesBad {
				t.Errorf("byte 0x%x: %v", at, err)
			}
			mem[at] ^= 0x10
		}
	}
	if !bytes.Equal(mem, s.ram()) {
		t.Error("a refused image changed memory")
	}
}

// Plain text of the image that no digest covers: the boot loader itself, which
// runs before anything is decrypted, the metadata, the padding.
func TestUnprotectedBytesHaveNoEffect(t *testing.T) {
	t.Parallel()
	s := common()
	mem := s.ram()
	for _, at := range []uint64{0, seimage.MetadataAddr, seimage.EntryAddr, seimage.Stage3aAddr, s.summary.HeaderAddr - 1, s.summary.HeaderAddr + uint64(s.summary.Header.Size())} {
		mem[at] ^= 0xff
	}
	if _, err := unpack(New(host(t, 0)), mem, s.summary.IPIBAddr); err != nil {
		t.Error(err)
	}
	plainText(t, s, mem)
}
