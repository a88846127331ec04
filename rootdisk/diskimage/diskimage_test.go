package diskimage

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const diskSize = 4 << 20

var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

func ext4At(b []byte, at int) {
	copy(b[at+1080:], "\x53\xef")
	b[at+1024+0x18] = 2 // blocks of 4096 bytes
}

// putGUID stores a GUID's text.
func putGUID(b []byte, text string) {
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil {
		panic(err)
	}
	le.PutUint32(b, be.Uint32(raw))
	le.PutUint16(b[4:], be.Uint16(raw[4:]))
	le.PutUint16(b[6:], be.Uint16(raw[6:]))
	copy(b[8:], raw[8:])
}

// gptDisk makes a disk with a GPT: a partition of 1 MiB with an ext4 for each
// type.
func gptDisk(types ...string) []byte {
	b := make([]byte, diskSize)
	entries := b[1024:][:128*128]
	for i, kind := range types {
		e := entries[i*128:]
		putGUID(e, kind)
		le.PutUint64(e[32:], uint64(2048*(i+1)))
		le.PutUint64(e[40:], uint64(2048*(i+2)-1))
		e[56] = 'r'
		ext4At(b, (i+1)<<20)
	}
	h := b[512:]
	copy(h, "EFI PART")
	le.PutUint32(h[8:], 0x10000)
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 128)
	le.PutUint32(h[84:], 128)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return b
}

func mbrDisk() []byte {
	b := make([]byte, diskSize)
	entry := func(sector, slot int, kind byte, start, count uint32) {
		e := b[sector*512+446+16*slot:]
		e[4] = kind
		le.PutUint32(e[8:], start)
		le.PutUint32(e[12:], count)
		b[sector*512+510], b[sector*512+511] = 0x55, 0xaa
	}
	entry(0, 0, 0x82, 2048, 1024)
	entry(0, 1, 0x05, 4096, 4096)
	entry(4096, 0, 0x83, 64, 1024)   // logical 5
	entry(4096, 1, 0x05, 2048, 1024) // relative to the extended one
	entry(6144, 0, 0x83, 64, 512)    // logical 6
	ext4At(b, (4096+64)*512)
	return b
}

func dasdDisk() []byte {
	b := make([]byte, diskSize)
	copy(b[2*dasdBlock:], ebcdicVOL1+ebcdicVOL1)
	be.PutUint16(b[2*dasdBlock+17:], 1) // VTOC: cylinder 0, head 1, record 1
	b[2*dasdBlock+19] = 1
	b[13*dasdBlock+44] = 0xf5
	f1 := b[14*dasdBlock:]
	f1[44] = 0xf1
	be.PutUint16(f1[109:], 2)  // from head 2
	be.PutUint16(f1[111:], 1)  // to cylinder 1
	be.PutUint16(f1[113:], 14) // head 14
	ext4At(b, 2*dasdTrack*dasdBlock)
	return b
}

func root(b []byte, number int) (Partition, error) {
	return Root(&Image{bytes.NewReader(b), int64(len(b)), "raw"}, number)
}

func TestRoot(t *testing.T) {
	t.Parallel()
	fs := make([]byte, 1<<20)
	ext4At(fs, 0)
	efi := "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	damaged := gptDisk(typeLinux)
	damaged[512+40]++
	twisted := mbrDisk()
	le.PutUint32(twisted[6144*512+446+16+8:], 2048) // leads to itself
	twisted[6144*512+446+16+4] = 5
	le.PutUint32(twisted[6144*512+446+16+12:], 1024)
	for name, c := range map[string]struct {
		disk   []byte
		number int
		start  int64
		want   error
	}{
		"file system":        {fs, 0, 0, nil},
		"partition of it":    {fs, 1, 0, ErrPartition},
		"nothing":            {make([]byte, 1<<20), 0, 0, ErrImage},
		"empty":              {nil, 0, 0, ErrImage},
		"gpt, only Linux":    {gptDisk(efi, typeLinux), 0, 2 << 20, nil},
		"gpt, root type":     {gptDisk(typeLinux, typeRootS390X), 0, 2 << 20, nil},
		"gpt, two":           {gptDisk(typeLinux, typeLinux), 0, 0, ErrPartition},
		"gpt, by number":     {gptDisk(typeLinux, typeLinux), 2, 2 << 20, nil},
		"gpt, no such":       {gptDisk(typeLinux), 9, 0, ErrPartition},
		"gpt, damaged":       {damaged, 0, 0, ErrImage},
		"gpt, cut off":       {gptDisk(typeLinux, typeLinux)[:2<<20], 0, 0, ErrImage},
		"mbr, logical":       {mbrDisk(), 0, (4096 + 64) * 512, nil},
		"mbr, by number":     {mbrDisk(), 5, (4096 + 64) * 512, nil},
		"mbr, no root in it": {mbrDisk(), 1, 0, ErrPartition},
		"mbr, circle":        {twisted, 0, 0, ErrImage},
		"dasd":               {dasdDisk(), 0, 2 * dasdTrack * dasdBlock, nil},
	} {
		p, err := root(c.disk, c.number)
		if !errors.Is(err, c.want) || err == nil && (p.Start != c.start || p.FileSystem != "ext4") {
			t.Errorf("%s: %+v %v", name, p, err)
		}
	}
	_, err := root(gptDisk(typeLinux, typeLinux), 0)
	if err == nil || !strings.Contains(err.Error(), "\n  2: 1 MiB, ext4, \"r\"") {
		t.Errorf("list: %v", err)
	}
}

// qcow makes an image of four clusters of 64 KiB: stored, compressed, zeros,
// nothing.
func qcow() []byte {
	const c = 64 << 10
	b := make([]byte, 5*c)
	copy(b, qcowMagic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 16)
	be.PutUint64(b[24:], 4*c-512)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], c)
	be.PutUint32(b[100:], 104)
	be.PutUint64(b[c:], 2*c|1<<63)
	be.PutUint64(b[2*c:], 3*c|1<<63)
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, 9)
	_, _ = w.Write(bytes.Repeat([]byte("pack"), c/4))
	_ = w.Close()
	at := 4*c + 100
	copy(b[at:], packed.Bytes())
	be.PutUint64(b[2*c+8:], compressed|uint64(at)|uint64((at%512+packed.Len()-1)/512)<<54)
	be.PutUint64(b[2*c+16:], 1)
	copy(b[3*c:], bytes.Repeat([]byte("data"), c/4))
	return b
}

func openBytes(t testing.TB, b []byte) (*Image, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return Open(f)
}

func TestQcow2(t *testing.T) {
	t.Parallel()
	const c = 64 << 10
	img, err := openBytes(t, qcow())
	if err != nil {
		t.Fatal(err)
	}
	want := append(bytes.Repeat([]byte("data"), c/4), bytes.Repeat([]byte("pack"), c/4)...)
	want = append(want, make([]byte, 2*c-512)...)
	got, err := io.ReadAll(io.NewSectionReader(img, 0, img.Size))
	if err != nil || img.Format != "qcow2" || !bytes.Equal(got, want) {
		t.Errorf("%v: %d bytes", err, len(got))
	}
	for name, change := range map[string]func(b []byte){
		"version":       func(b []byte) { b[7] = 9 },
		"backing file":  func(b []byte) { b[15] = 104 },
		"encrypted":     func(b []byte) { b[35] = 1 },
		"cluster size":  func(b []byte) { b[23] = 40 },
		"huge":          func(b []byte) { b[24] = 0x7f },
		"negative":      func(b []byte) { b[24] = 0xff },
		"corrupt":       func(b []byte) { b[79] = 2 },
		"data file":     func(b []byte) { b[79] = 4 },
		"subclusters":   func(b []byte) { b[79] = 16 },
		"unknown":       func(b []byte) { b[72] = 1 },
		"small L1":      func(b []byte) { clear(b[36:40]) },
		"L1 outside":    func(b []byte) { b[41] = 1 },
		"header length": func(b []byte) { clear(b[100:104]) },
	} {
		b := qcow()
		change(b)
		if _, err := openBytes(t, b); !errors.Is(err, ErrImage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(b []byte){
		"L2 outside":      func(b []byte) { b[c+3] = 1 },
		"cluster outside": func(b []byte) { b[2*c+3] = 1 },
		"not aligned":     func(b []byte) { b[2*c+6] |= 2 },
		"not packed":      func(b []byte) { clear(b[4*c:]) },
	} {
		b := qcow()
		change(b)
		img, err := openBytes(t, b)
		if err == nil {
			_, err = io.ReadAll(io.NewSectionReader(img, 0, img.Size))
		}
		if !errors.Is(err, ErrImage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// An L2 table that is its own cluster is content like any other.
	b := qcow()
	be.PutUint64(b[2*c:], 2*c|1<<63)
	if img, err = openBytes(t, b); err != nil {
		t.Fatal(err)
	}
	if got, err = io.ReadAll(io.NewSectionReader(img, 0, c)); err != nil || !bytes.Equal(got, b[2*c:3*c]) {
		t.Errorf("circle: %v", err)
	}
}

// What qemu-img writes reads as what it was made of.
func TestPremiseQemuImg(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Skip("qemu-img is not installed")
	}
	dir := t.TempDir()
	raw := append(gptDisk(typeLinux), bytes.Repeat([]byte("0123456789abcde\n"), 1<<14)...)
	in := filepath.Join(dir, "raw")
	if err := os.WriteFile(in, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, options := range [][]string{
		{"-o", "compat=0.10"}, {"-o", "cluster_size=512"}, {"-o", "cluster_size=2M"}, {"-c"}, {"-c", "-o", "compression_type=zstd"}, {"-c", "-o", "cluster_size=4k"},
	} {
		out := filepath.Join(dir, strings.Join(options, ""))
		if b, err := exec.Command(program, append(append([]string{"convert", "-O", "qcow2"}, options...), in, out)...).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", options, b)
			continue
		}
		f, err := os.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		img, err := Open(f)
		if err != nil {
			t.Errorf("%v: %v", options, err)
			continue
		}
		got, err := io.ReadAll(io.NewSectionReader(img, 0, img.Size))
		if err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%v: %v, %d bytes, want %d", options, err, len(got), len(raw))
		}
	}
}

func FuzzPartitions(f *testing.F) {
	for _, b := range [][]byte{gptDisk(typeLinux), mbrDisk(), dasdDisk()} {
		f.Add(b[:64<<10])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		size := int64(len(b))
		table, err := Partitions(bytes.NewReader(b), size)
		if err != nil {
			if !errors.Is(err, ErrImage) && !errors.Is(err, errNoTable) {
				t.Error(err)
			}
			return
		}
		for _, p := range table.Partitions {
			if p.Start < 0 || p.Size <= 0 || p.Start+p.Size > size {
				t.Errorf("partition %+v of %d bytes", p, size)
			}
		}
	})
}

func FuzzQcow2(f *testing.F) {
	f.Add(qcow()[:4096], uint32(0))
	f.Add(qcow()[:300], uint32(70000))
	f.Fuzz(func(t *testing.T, head []byte, at uint32) {
		b := qcow()
		copy(b, head)
		img, err := openBytes(t, b)
		if err == nil {
			_, err = img.ReadAt(make([]byte, 4096), int64(at))
		}
		if err != nil && !errors.Is(err, ErrImage) && !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

// A superblock says how large its file system is and in what it counts; neither
// may be more, or less, than there is.
func TestSuperblocks(t *testing.T) {
	t.Parallel()
	superblock := func(xfs bool, blocks uint32, shift, sector byte) []byte {
		b := make([]byte, 1<<20)
		if !xfs {
			ext4At(b, 0)
			le.PutUint32(b[1024+4:], blocks)
			b[1024+0x18] = shift - 10
			return b
		}
		copy(b, "XFSB")
		be.PutUint64(b[8:], uint64(blocks))
		be.PutUint16(b[102:], 1<<sector)
		b[120], b[124] = shift, 16 // the latter is of allocation groups
		return b
	}
	for name, c := range map[string]struct {
		image []byte
		words string // "": taken
	}{
		"ext4":                     {superblock(false, 256, 12, 0), ""},
		"ext4, cut off":            {superblock(false, 257, 12, 0), "it is cut off"},
		"ext4 of small blocks":     {superblock(false, 1024, 10, 0), "counts in 1024 bytes"},
		"ext4 of blocks of 2 KiB":  {superblock(false, 512, 11, 0), "counts in 2048 bytes"},
		"xfs":                      {superblock(true, 256, 12, 12), ""},
		"xfs, cut off":             {superblock(true, 257, 12, 12), "it is cut off"},
		"xfs of small sectors":     {superblock(true, 256, 12, 9), "mkfs.xfs -s size=4096"},
		"xfs of blocks of 64 KiB ": {superblock(true, 16, 16, 12), ""},
	} {
		img := &Image{ReaderAt: bytes.NewReader(c.image), Size: int64(len(c.image))}
		_, err := Root(img, 0)
		if c.words == "" && err != nil || c.words != "" && (!errors.Is(err, ErrImage) || !strings.Contains(err.Error(), c.words)) {
			t.Errorf("%s: %v, wants %q", name, err, c.words)
		}
	}
}
