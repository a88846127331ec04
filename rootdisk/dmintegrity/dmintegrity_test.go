package dmintegrity

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"
)

// memory is a device in memory.
type memory []byte

func (m memory) WriteAt(b []byte, at int64) (int, error) { return copy(m[at:], b), nil }

// device is a whole device without data, as a maker leaves it.
func device(t testing.TB, data int64) (Layout, memory) {
	t.Helper()
	l, err := Plan(data)
	if err != nil {
		t.Fatal(err)
	}
	m := make(memory, l.Size)
	copy(m, l.Superblock())
	if err := l.WriteJournal(m); err != nil {
		t.Fatal(err)
	}
	return l, m
}

// The superblock's bytes for a size: a kernel has accepted them.
func TestGoldenSuperblock(t *testing.T) {
	t.Parallel()
	for data, want := range map[int64]string{
		48 << 20: "696e7465677274" + "00" + "04" + "0f" + "2000" + "02000000" + "e881010000000000" + "08000000" + "03" + "0c" + "0000",
		4 << 40:  "696e7465677274" + "00" + "04" + "0f" + "2000" + "3e000000" + "00c8ff0102000000",
	} {
		l, err := Plan(data)
		if err != nil {
			t.Fatal(err)
		}
		b := l.Superblock()
		if got := hex.EncodeToString(b[:len(want)/2]); data == 48<<20 && got != want {
			t.Errorf("%d bytes: got %s, wants %s", data, got, want)
		}
		if len(b) != superblock || !bytes.Equal(b[32:], make([]byte, superblock-32)) {
			t.Errorf("%d bytes: the superblock has %d bytes, or something behind its fields", data, len(b))
		}
	}
}

// kernelProvided is what dm-integrity gives of a device whose superblock lies
// behind start units: it sets the highest bits that leave the last sector on it
// (get_provided_data_sectors and calculate_device_limits).
func kernelProvided(start, size int64, l *Layout) int64 {
	device, initial, run := uint64(start+size/unit), uint64(8+264*l.Sections), uint64(256)
	var provided uint64
	for bit := 62; bit >= 3; bit-- {
		try := provided | 1<<bit
		area, offset := (try-1)>>15, (try-1)&(1<<15-1)
		if area<<15+(area+1)*run+initial+offset+uint64(start) < device {
			provided = try
		}
	}
	return int64(provided) * unit
}

func TestLayoutIsTheKernels(t *testing.T) {
	t.Parallel()
	const start = 16 << 20 / unit
	for _, data := range []int64{4096, 1 << 20, 12 << 20, areaData - 4096, areaData, areaData + 4096, 3*areaData - 8192, 1 << 30, 1<<30 + 4096, 77 << 30, 4 << 40} {
		l, err := Plan(data)
		if err != nil {
			t.Fatal(err)
		}
		if l.Size%mebi != 0 || l.Provided < data || l.Provided >= data+mebi+areaTags {
			t.Errorf("%d bytes: %+v", data, l)
		}
		if want := kernelProvided(start, l.Size, &l); l.Provided != want {
			t.Errorf("%d bytes: gives %d, the kernel gives %d", data, l.Provided, want)
		}
		// The last sector is the device's last but for less than another and its
		// tags; each area's tags end where its data starts.
		last := l.Provided - SectorSize
		if end := l.Data(last) + SectorSize; end > l.Size || end+areaTags+SectorSize < l.Size {
			t.Errorf("%d bytes: the last sector ends at %d of %d", data, end, l.Size)
		}
		for at := int64(0); at < min(l.Provided, 4*areaData); at += areaData {
			if l.Tag(at)+areaTags != l.Data(at) || at > 0 && l.Tag(at) != l.Data(at-SectorSize)+SectorSize {
				t.Errorf("%d bytes: area at %d has its tags at %d, its data at %d", data, at, l.Tag(at), l.Data(at))
			}
			if at > 0 && l.Tag(at-SectorSize)+TagSize != l.Data(at-areaData) {
				t.Errorf("the last tag of the area before %d does not end it", at)
			}
		}
	}
	for _, data := range []int64{0, -4096, 100, maxData + 4096} {
		if _, err := Plan(data); !errors.Is(err, ErrLayout) {
			t.Errorf("%d bytes: %v", data, err)
		}
	}
}

func TestReadSuperblock(t *testing.T) {
	t.Parallel()
	l, m := device(t, 8<<20)
	got, err := Read(bytes.NewReader(m), l.Size)
	if err != nil || got != l {
		t.Errorf("got %+v %v, wants %+v", got, err, l)
	}
	for name, spoil := range map[string]func(b []byte){
		"magic":         func(b []byte) { b[0] = 'I' },
		"version 5":     func(b []byte) { b[sbVersion] = 5 },
		"recalculating": func(b []byte) { b[sbFlags] |= 2 },
		"journal mac":   func(b []byte) { b[sbFlags] |= 1 },
		"no padding":    func(b []byte) { b[sbFlags] = 0 },
		"interleave":    func(b []byte) { b[sbInterleave]-- },
		"tag size":      func(b []byte) { b[sbTagSize] = 16 },
		"sector size":   func(b []byte) { b[sbBlock] = 0 },
		"no journal":    func(b []byte) { b[sbSections] = 0 },
		"huge journal":  func(b []byte) { b[sbSections+3] = 0xff },
		"long journal":  func(b []byte) { b[sbSections] = 250 },
		"no data":       func(b []byte) { clear(b[sbProvided : sbProvided+8]) },
		"more data":     func(b []byte) { b[sbProvided+4] = 1 },
		"huge data":     func(b []byte) { b[sbProvided+7] = 0xff },
		"odd data":      func(b []byte) { b[sbProvided]-- },
	} {
		b := bytes.Clone(m[:superblock])
		spoil(b)
		if _, err := Read(bytes.NewReader(b), l.Size); !errors.Is(err, ErrDevice) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Read(bytes.NewReader(m[:10]), l.Size); !errors.Is(err, ErrDevice) {
		t.Errorf("ten bytes: %v", err)
	}
}

// commit writes a section as dm-integrity does when it commits: entries, data,
// commit ids of a pass.
func (m memory) commit(section, pass int, sectors map[int]int64) {
	b := m[superblock+section*sectionSize:][:sectionSize]
	for n, at := range sectors {
		e := b[entryAt(n):][:entrySize]
		binary.LittleEndian.PutUint64(e, uint64(at/unit))
		copy(e[8:], bytes.Repeat([]byte{byte(n), 'b'}, entrySize))
		copy(e[8+64:], bytes.Repeat([]byte{byte(n), 't'}, TagSize/2))
		copy(b[entryUnits*unit+n*SectorSize:], bytes.Repeat([]byte{byte(section), byte(n)}, SectorSize/2))
	}
	for u := range sectionUnits {
		binary.LittleEndian.PutUint64(b[(u+1)*unit-commitID:], id(section, u, pass))
	}
}

func TestJournal(t *testing.T) {
	t.Parallel()
	const sections = 3
	read := func(m memory, l *Layout) (*Journal, error) { return l.ReadJournal(bytes.NewReader(m)) }
	fresh := func() (*Layout, memory) {
		l, m := device(t, 50<<20)
		if l.Sections != sections {
			t.Fatalf("%d sections", l.Sections)
		}
		return &l, m
	}
	l, m := fresh()
	if j, err := read(m, l); err != nil || j.Len() != 0 {
		t.Errorf("fresh: %v %+v", err, j)
	}
	// The first writes after it was made, in pass 1; the later of two counts.
	m.commit(0, 1, map[int]int64{0: 8192, 31: 4096})
	m.commit(1, 1, map[int]int64{8: 4096})
	j, err := read(m, l)
	if err != nil || j.Len() != 2 {
		t.Fatalf("committed: %v %+v", err, j)
	}
	sector, tag := make([]byte, SectorSize), make([]byte, TagSize)
	if err := j.Sector(4096, sector, tag); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{1, 8}, SectorSize/2)
	for u := range 8 {
		copy(want[(u+1)*unit-8:(u+1)*unit], bytes.Repeat([]byte{8, 'b'}, 4))
	}
	if !bytes.Equal(sector, want) || !bytes.Equal(tag, bytes.Repeat([]byte{8, 't'}, 16)) {
		t.Error("the sector is not what was committed last")
	}
	clear(sector)
	if err := j.Sector(12288, sector, tag); err != nil || !isClear(sector) {
		t.Errorf("a sector that is not in the journal: %v", err)
	}
	// A section that was not written whole ends what counts, and so does one of
	// a pass before.
	m.commit(1, 1, map[int]int64{8: 4096})
	binary.LittleEndian.PutUint64(m[superblock+sectionSize+10*unit-commitID:], id(1, 9, 0))
	if j, err := read(m, l); err != nil || j.Len() != 2 || j.sectors[4096].at != superblock+entryUnits*unit+31*SectorSize {
		t.Errorf("torn: %v %+v", err, j)
	}
	l, m = fresh()
	for s := range sections {
		m.commit(s, 3, map[int]int64{1: int64(s) * 4096})
	}
	m.commit(0, 0, map[int]int64{1: 1 << 20, 2: 99 << 40})
	if j, err := read(m, l); err != nil || j.Len() != 3 {
		t.Errorf("pass 0 after pass 3: %v %+v", err, j)
	}
	// What no dm-integrity writes is an error.
	l, m = fresh()
	m[superblock+unit-1] ^= 1
	if _, err := read(m, l); !errors.Is(err, ErrDevice) {
		t.Errorf("no commit id: %v", err)
	}
	l, m = fresh()
	for u := range passes {
		binary.LittleEndian.PutUint64(m[superblock+(u+1)*unit-commitID:], id(0, u, u))
	}
	if _, err := read(m, l); !errors.Is(err, ErrDevice) {
		t.Errorf("all passes: %v", err)
	}
	if _, err := read(m[:superblock+10], l); !errors.Is(err, ErrDevice) {
		t.Errorf("cut off: %v", err)
	}
}

func isClear(b []byte) bool { return bytes.Equal(b, make([]byte, len(b))) }

// Whatever lies on a disk, reading it ends, and the journal names no sector that
// the device does not give.
func FuzzDevice(f *testing.F) {
	l, m := device(f, 1<<20)
	m.commit(0, 1, map[int]int64{0: 8192, 31: 4096})
	f.Add([]byte(m[:superblock+sectionSize]))
	f.Add(l.Superblock())
	f.Fuzz(func(t *testing.T, head []byte) {
		b := bytes.Clone(m)
		copy(b, head)
		l, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		j, err := l.ReadJournal(bytes.NewReader(b))
		if err != nil {
			return
		}
		for at := range j.sectors {
			if at < 0 || at >= l.Provided || at%SectorSize != 0 {
				t.Errorf("sector at %d of %d", at, l.Provided)
			}
			if err := j.Sector(at, make([]byte, SectorSize), make([]byte, TagSize)); err != nil {
				t.Error(err)
			}
		}
	})
}
