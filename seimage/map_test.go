package seimage

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "rewrite golden files")

// laidOut is an image of the given layout; its header and pages hold nothing.
func laidOut(legacy bool) *Image {
	img := &Image{
		Header:     &Header{Slots: make([]KeySlot, 3), Encrypted: make([]byte, SecretsSize)},
		HeaderAddr: 0x14000, ArgsAddr: 0x118f0, IPIBAddr: 0xa9e000, Legacy: legacy,
	}
	at := func(kind uint64, addr, size uint64) IPIBComponent { return IPIBComponent{kind<<48 | 7, addr, size} }
	if legacy {
		img.ArgsAddr, img.IPIBAddr = 0x126a0, legacyIPIBAddr
		img.IPIB = &IPIB{Components: []IPIBComponent{at(0, 0x15000, 0x12000), at(1, 0x27000, 0x1000), at(2, 0x28000, 0x1000), at(3, 0x29000, 0x2000)}}
		img.IPIB.block = make([]byte, MaxIPIBSize)
		return img
	}
	img.IPIB = &IPIB{Components: []IPIBComponent{
		at(KindKernel, 0x16000, 0x7a9000), at(KindInitrd, 0x7bf000, 0x2dd000), at(KindCmdline, 0xa9c000, 0x1000), at(KindStage3b, 0xa9d000, 0x1000),
	}}
	return img
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update rewrites it); got:\n%s", path, got)
	}
}

func TestMapGolden(t *testing.T) {
	t.Parallel()
	for name, img := range map[string]*Image{"map": laidOut(false), "map-legacy": laidOut(true)} {
		var text, svg bytes.Buffer
		if err := img.Map().Text(&text); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", text.Bytes())
		if err := img.Map().SVG(&svg); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".svg", svg.Bytes())
		wellFormed(t, svg.Bytes())
	}
}

func wellFormed(t *testing.T, svg []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("SVG: %v", err)
		}
	}
}

// Bands leave no hole, stand in order and fill the drawing; those to scale have
// one scale.
func TestMapScale(t *testing.T) {
	t.Parallel()
	for _, img := range []*Image{laidOut(false), laidOut(true)} {
		y, addr, scale := float64(svgTop), uint64(0), 0.0
		for _, c := range img.Map().bands() {
			if c.y < y-0.01 || c.y > y+0.01 || c.from != addr {
				t.Errorf("band from 0x%x at %.1f, wants 0x%x at %.1f", c.from, c.y, addr, y)
			}
			y, addr = c.y+c.h, c.to
			if !c.exact {
				continue
			}
			if s := c.h / float64(c.to-c.from); scale == 0 {
				scale = s
			} else if s < scale*0.999 || s > scale*1.001 {
				t.Errorf("band from 0x%x has scale %g, another %g", c.from, s, scale)
			}
		}
		if scale == 0 || y < svgTop+svgHeight-1 || y > svgTop+svgHeight+1 {
			t.Errorf("drawing ends at %.1f", y)
		}
	}
}

// FuzzInfo gives hostile metadata, loader arguments, header and IPIB to all that
// info does: it never panics, and memory does not grow with what the image says.
func FuzzInfo(f *testing.F) {
	const header, ipib, length = 0x14000, 0x17000, 0x19000
	h := sampleHeader(f).Marshal()
	block := (&IPIB{Components: []IPIBComponent{{KindKernel << 48, 0x16000, PageSize}}}).Marshal()
	meta := Metadata{header, ipib}.marshal()
	f.Add(meta, []byte{}, h, block)
	f.Add([]byte{}, []byte{}, h, legacyIPIB(block))
	f.Add(Metadata{header, 1 << 63}.marshal(), []byte{}, h, block)
	f.Add(Metadata{1<<64 - 8, ipib}.marshal(), []byte{}, h, block)
	f.Fuzz(func(t *testing.T, meta, args, h, block []byte) {
		b := make([]byte, length)
		copy(b[MetadataAddr:], meta)
		copy(b[0x13f00:0x14000], args)
		copy(b[header:ipib], h)
		copy(b[ipib:], block)
		if len(meta) == 0 {
			copy(b[legacyIPIBAddr:0x14000], block)
		}
		if img, err := OpenHeader(bytes.NewReader(b), length); err == nil {
			if _, err := NewInfo(img.Header, false, nil, someMeta).JSON(true); err != nil {
				t.Error(err)
			}
		}
		img, err := Open(bytes.NewReader(b), length)
		if err != nil {
			return
		}
		var text, svg bytes.Buffer
		m := img.Map()
		if err := errors.Join(m.Text(&text), m.SVG(&svg)); err != nil {
			t.Error(err)
		}
		wellFormed(t, svg.Bytes())
		if text.Len() > 64<<10 || svg.Len() > 256<<10 {
			t.Errorf("map of %d and %d bytes", text.Len(), svg.Len())
		}
	})
}
