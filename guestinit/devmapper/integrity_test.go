package devmapper

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

var tags = Integrity{Major: 254, Minor: 16, Offset: 16 << 20, Provided: 48 << 20, TagSize: 32, JournalSectors: 528, InterleaveSectors: 32768, SectorSize: 4096}

func TestIntegrityTable(t *testing.T) {
	t.Parallel()
	kind, got, sectors, err := tags.Table()
	if want := "254:16 32768 32 J 4 block_size:4096 interleave_sectors:32768 journal_sectors:528 fix_padding"; err != nil || kind != "integrity" || sectors != 48<<11 || got != want {
		t.Errorf("got %s %q %d %v, wants %q", kind, got, sectors, err, want)
	}
	for name, spoil := range map[string]func(*Integrity){
		"offset": func(i *Integrity) { i.Offset = 100 }, "size": func(i *Integrity) { i.Provided = 512 }, "nothing": func(i *Integrity) { i.Provided = 0 },
		"sectors": func(i *Integrity) { i.SectorSize = 0 },
	} {
		i := tags
		spoil(&i)
		if _, _, _, err := i.Table(); !errors.Is(err, ErrTable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := root()
	c.Cipher, c.KeySize, c.TagSize, c.Offset = "capi:authenc(hmac(sha256),xts(aes))-plain64", 96, 32, 0
	if _, got, _, err := c.Table(); err != nil || got != "capi:authenc(hmac(sha256),xts(aes))-plain64 :96:logon:secexec:root 0 254:16 0 2 integrity:32:aead sector_size:4096" {
		t.Errorf("dm-crypt above it: %q %v", got, err)
	}
}

// What Linux 6.12 says of a loaded table.
const (
	kernelTable  = "254:16 32768 32 J 7 block_size:4096 journal_sectors:528 interleave_sectors:32768 buffer_sectors:128 journal_watermark:50 commit_time:10000 fix_padding"
	kernelStatus = "0 98304 -"
)

func TestIntegrityVerify(t *testing.T) {
	t.Parallel()
	for _, status := range []string{kernelStatus, "0 98312 -"} {
		if err := tags.Verify(kernelTable, status); err != nil {
			t.Errorf("%s: %v", status, err)
		}
	}
	swap := func(old, new string) string { return strings.Replace(kernelTable, old, new, 1) }
	for name, text := range map[string][2]string{
		"interleave":          {swap("interleave_sectors:32768", "interleave_sectors:16384"), kernelStatus},
		"journal":             {swap("journal_sectors:528", "journal_sectors:5280"), kernelStatus},
		"sectors":             {swap("block_size:4096 ", ""), kernelStatus},
		"padding":             {swap(" fix_padding", ""), kernelStatus},
		"padding twice":       {swap("journal_sectors:528", "fix_padding"), kernelStatus},
		"mode":                {swap(" J ", " D "), kernelStatus},
		"tag size":            {swap(" 32 J", " 16 J"), kernelStatus},
		"disk":                {swap("254:16", "254:0"), kernelStatus},
		"start":               {swap(" 32768 32 J", " 0 32 J"), kernelStatus},
		"recalculate":         {kernelTable + " recalculate", kernelStatus},
		"hash":                {kernelTable + " internal_hash:crc32c", kernelStatus},
		"tags elsewhere":      {kernelTable + " meta_device:254:32", kernelStatus},
		"less data":           {kernelTable, "0 98296 -"},
		"recalculates":        {kernelTable, "0 98304 8"},
		"status of more":      {kernelTable, "0 98304 - -"},
		"status of no number": {kernelTable, "0 many -"},
		"empty status":        {kernelTable, ""},
		"empty table":         {"", kernelStatus},
	} {
		if err := tags.Verify(text[0], text[1]); !errors.Is(err, ErrDiffers) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A superblock as rootdisk/dmintegrity writes it (its golden test has the same
// bytes).
const goldenSuperblock = "696e746567727400" + "040f2000" + "02000000" + "e881010000000000" + "08000000" + "030c0000"

func TestCheckSuperblock(t *testing.T) {
	t.Parallel()
	fresh := func() []byte {
		b, err := hex.DecodeString(goldenSuperblock)
		if err != nil {
			t.Fatal(err)
		}
		return append(b, make([]byte, SuperblockSize-len(b))...)
	}
	if err := tags.CheckSuperblock(fresh()); err != nil {
		t.Error(err)
	}
	free := map[int]bool{29: true} // the bitmap's
	for at := 16; at < 24; at++ {
		free[at] = true // how much data
	}
	for at := range SuperblockSize {
		for bit := range 8 {
			b := fresh()
			b[at] ^= 1 << bit
			if err := tags.CheckSuperblock(b); errors.Is(err, ErrDiffers) == free[at] {
				t.Errorf("bit %d of byte %d: %v", bit, at, err)
			}
		}
	}
	for name, b := range map[string][]byte{"zeros": make([]byte, SuperblockSize), "nothing": nil, "more": append(fresh(), 0)} {
		if err := tags.CheckSuperblock(b); !errors.Is(err, ErrDiffers) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStatusText(t *testing.T) {
	t.Parallel()
	for _, order := range []binary.ByteOrder{binary.BigEndian, binary.LittleEndian} {
		fresh := func() []byte {
			b := message(order, "secexec-root-tags", flagStatusTable|flagInactive, 256)
			order.PutUint32(b[20:], 1)
			copy(b[headerSize+targetSize:], kernelStatus)
			return b
		}
		if got, err := statusText(order, fresh()); err != nil || got != kernelStatus {
			t.Errorf("got %q %v", got, err)
		}
		for name, spoil := range map[string]func(b []byte){
			"buffer full": func(b []byte) { order.PutUint32(b[28:], flagBufferFull) },
			"no target":   func(b []byte) { order.PutUint32(b[20:], 0) },
			"two targets": func(b []byte) { order.PutUint32(b[20:], 2) },
			"start":       func(b []byte) { order.PutUint32(b[16:], 1<<31) },
			"early start": func(b []byte) { order.PutUint32(b[16:], 8) },
			"no end":      func(b []byte) { copy(b[headerSize+targetSize:], bytes.Repeat([]byte{'x'}, 256)) },
		} {
			b := fresh()
			spoil(b)
			if _, err := statusText(order, b); !errors.Is(err, ErrDiffers) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// Nothing but the sealed layout is ever taken, however the words are put.
func FuzzVerify(f *testing.F) {
	f.Add(kernelTable, kernelStatus)
	f.Add(kernelTable+" recalculate", "0 98304 8")
	f.Fuzz(func(t *testing.T, table, status string) {
		if tags.Verify(table, status) != nil {
			return
		}
		words := strings.Fields(table)
		for _, want := range tags.layout() {
			found := false
			for _, w := range words[5:] {
				found = found || w == want
			}
			if !found {
				t.Errorf("%q is taken without %s", table, want)
			}
		}
	})
}
