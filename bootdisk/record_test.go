package bootdisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"reflect"
	"testing"
)

// diskWith returns a disk's first MiB with a record of these programs.
func diskWith(t testing.TB, programs []Program, slots []int) []byte {
	t.Helper()
	return append(diskAt(t, programs, slots, recordBlock), make([]byte, mebi)...)[:mebi]
}

// diskAt returns a disk that ends with the record, which begins at a block.
func diskAt(t testing.TB, programs []Program, slots []int, block int64) []byte {
	t.Helper()
	record, err := marshalRecord(programs, slots, block)
	if err != nil {
		t.Fatal(err)
	}
	disk := make([]byte, block*BlockSize)
	bootBlock(disk, block)
	return append(disk, record...)
}

// manyRuns are n runs of one block each, apart from each other.
func manyRuns(n int) (runs []Run) {
	for i := range n {
		runs = append(runs, Run{int64(3000 + 2*i), 1})
	}
	return runs
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	const size = 64 << 30
	for _, n := range []int{1, 30, 31, 32, 62, 63, 200} {
		programs := []Program{
			{[]Load{{0x10000, manyRuns(n)}}, entryPSW},
			{[]Load{{0x10000, []Run{{5000, 3}}}, {0x2000, []Run{{1, 1}}}}, 0x0008000080002000},
		}
		disk := diskWith(t, programs, []int{1, 0, 1})
		slots, err := ReadRecord(bytes.NewReader(disk), size)
		if err != nil {
			t.Fatalf("%d runs: %v", n, err)
		}
		for i, want := range []*Program{&programs[1], &programs[0], &programs[1], nil, nil} {
			if !reflect.DeepEqual(slots[i], want) {
				t.Errorf("%d runs: slot %d is %v, wants %v", n, i, slots[i], want)
			}
		}
	}
}

// A run longer than one pointer can name is cut, and stays in order.
func TestRecordCutsLongRuns(t *testing.T) {
	t.Parallel()
	disk := diskWith(t, []Program{{[]Load{{0x10000, []Run{{4096, 3*maxRun + 5}}}}, entryPSW}}, []int{0})
	slots, err := ReadRecord(bytes.NewReader(disk), 64<<30)
	want := []Run{{4096, maxRun}, {4096 + maxRun, maxRun}, {4096 + 2*maxRun, maxRun}, {4096 + 3*maxRun, 5}}
	if err != nil || !reflect.DeepEqual(slots[0].Loads[0].Runs, want) {
		t.Errorf("%v %v", slots[0], err)
	}
}

// The bytes themselves, as zipl 2.43 lays them out (zipl/src/bootmap.c).
func TestRecordBytes(t *testing.T) {
	t.Parallel()
	disk := diskWith(t, []Program{{[]Load{{0x10000, []Run{{0x1234, 0x20}}}}, entryPSW}}, []int{0, 0})
	be := binary.BigEndian
	pointer := func(block uint64, blocks uint16) []byte {
		return append(be.AppendUint16(be.AppendUint16(be.AppendUint64(nil, block), 512), blocks-1), 0, 0, 0, 0)
	}
	for _, c := range []struct {
		at   int
		want []byte
	}{
		{0, append([]byte("zIPL\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"), pointer(34, 1)...)},
		{34 * 512, append(append([]byte("zIPL"), make([]byte, 12)...), append(pointer(36, 1), pointer(36, 1)...)...)},
		{34*512 + 48, make([]byte, 512-48)},
		{35 * 512, append(pointer(0x1234, 0x20), make([]byte, 512-16)...)},
		{36 * 512, append([]byte("zIPL"), make([]byte, 28)...)},
		{36*512 + 32, append(pointer(35, 1), 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 0)},
		{36*512 + 64, append(make([]byte, 16), 0, 0, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0x80, 1, 0, 0)},
	} {
		if got := disk[c.at : c.at+len(c.want)]; !bytes.Equal(got, c.want) {
			t.Errorf("at %d: %x, wants %x", c.at, got, c.want)
		}
	}
}

func TestRecordLimits(t *testing.T) {
	t.Parallel()
	good := Program{[]Load{{0x10000, []Run{{100, 1}}}}, entryPSW}
	loads := func(n int) (l []Load) {
		for range n {
			l = append(l, good.Loads[0])
		}
		return l
	}
	run := func(r Run) []Program { return []Program{{[]Load{{0x10000, []Run{r}}}, entryPSW}} }
	for _, c := range []struct {
		name     string
		programs []Program
		slots    int
		ok       bool
	}{
		{"all slots", []Program{good}, maxSlots, true},
		{"a slot too many", []Program{good}, maxSlots + 1, false},
		{"no slot", []Program{good}, 0, false},
		{"all components", []Program{{loads(maxComponents - 1), 1}}, 1, true},
		{"a component too many", []Program{{loads(maxComponents), 1}}, 1, false},
		{"no component", []Program{{nil, 1}}, 1, false},
		{"no blocks", []Program{{[]Load{{1, nil}}, 1}}, 1, false},
		{"block 0", run(Run{0, 1}), 1, false},
		{"empty run", run(Run{1, 0}), 1, false},
		{"last block", run(Run{maxBlockNumber, 1}), 1, true},
		{"beyond it", run(Run{maxBlockNumber, 2}), 1, false},
	} {
		_, err := marshalRecord(c.programs, make([]int, c.slots), recordBlock)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestReadRecordRefusals(t *testing.T) {
	t.Parallel()
	const size = 1 << 30
	good := []Program{{[]Load{{0x10000, manyRuns(40)}}, entryPSW}}
	put := func(at int, b ...byte) func([]byte) { return func(d []byte) { copy(d[at:], b) } }
	const table, runs, program = 34 * 512, 35 * 512, 37 * 512
	for name, spoil := range map[string]func([]byte){
		"no magic":                    put(0, 'x'),
		"version":                     put(7, 2),
		"pointer to nowhere":          put(16, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff),
		"pointer to block 0":          put(16, 0, 0, 0, 0, 0, 0, 0, 0),
		"block number of 64 bits":     put(16, 0x80),
		"block size":                  put(24, 0x10),
		"reserved bytes":              put(31, 1),
		"program table without magic": put(table, 'x'),
		"program table of two blocks": put(27, 1),
		"no default program":          put(table+16, make([]byte, 16)...),
		"program without magic":       put(program, 'x'),
		"dump program":                put(program+4, 1),
		"unknown component":           put(program+32+23, 9),
		"no entry":                    put(program+64+23, 2),
		"nothing loaded":              put(program+32+23, 1),
		"segment table in a circle":   put(runs+31*16+7, 35),
		"segment table without runs":  put(runs, make([]byte, 16)...),
		"run beyond the disk":         put(runs+4, 0x7f),
		"component beyond the program": func(d []byte) {
			for i := range 15 {
				copy(d[program+32*(i+1):], d[program+32:program+64])
			}
		},
	} {
		disk := diskWith(t, good, []int{0})
		if _, err := ReadRecord(bytes.NewReader(disk), size); err != nil {
			t.Fatal(err)
		}
		spoil(disk)
		if _, err := ReadRecord(bytes.NewReader(disk), size); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadRecord(bytes.NewReader(nil), 0); err == nil {
		t.Error("empty disk")
	}
}

func FuzzReadRecord(f *testing.F) {
	one := []Program{{[]Load{{0x10000, manyRuns(3)}}, entryPSW}}
	f.Add(diskAt(f, one, []int{0, 0}, 1))
	f.Add(diskAt(f, []Program{one[0], {[]Load{{0x10000, manyRuns(40)}}, 1}}, []int{1, 0}, 1))
	f.Fuzz(func(t *testing.T, disk []byte) {
		slots, err := ReadRecord(bytes.NewReader(disk), 1<<30)
		if err != nil {
			return
		}
		// What was read can be written and read again.
		var programs []Program
		var order []int
		for _, p := range slots {
			if p == nil {
				break
			}
			order = append(order, len(programs))
			programs = append(programs, *p)
		}
		slots, err = ReadRecord(bytes.NewReader(diskAt(t, programs, order, 1)), 1<<31)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range programs {
			if !reflect.DeepEqual(*slots[i], p) {
				t.Errorf("slot %d: %v, was %v", i, *slots[i], p)
			}
		}
	})
}

// blocks are some of a disk's.
type blocks map[int64][]byte

func (b blocks) ReadAt(p []byte, at int64) (int, error) {
	block, ok := b[at/BlockSize]
	if !ok {
		return 0, io.EOF
	}
	return copy(p, block), nil
}

// A record that zipl itself wrote, version 2.16 as in Debian 12 under qemu-user,
// on a disk made by Create and mounted from a loop device:
//
//	zipl -n -t MNT -i MNT/boot.seimg,0x10000 --targetbase=/dev/loop0 --targettype=SCSI --targetblocksize=512 --targetoffset=2048
//
// testdata/zipl-2.16.blocks holds the blocks that the record is made of, each
// after its number. Its boot block differs from ours in the program table's
// place only, and the image's blocks are those that Create named.
func TestReadsZiplsRecord(t *testing.T) {
	t.Parallel()
	data := must(os.ReadFile("testdata/zipl-2.16.blocks"))
	disk := make(blocks)
	for ; len(data) >= 8+BlockSize; data = data[8+BlockSize:] {
		disk[int64(binary.BigEndian.Uint64(data))] = data[8 : 8+BlockSize]
	}
	slots, err := ReadRecord(disk, 195035136)
	if err != nil {
		t.Fatal(err)
	}
	p := slots[0]
	if p.PSW != 0x000800008000a000 || len(p.Loads) != 5 {
		t.Fatalf("%v", p)
	}
	image, n := p.Loads[4], int64(0)
	for _, r := range image.Runs {
		n += r.Blocks
	}
	if image.Addr != 0x10000 || n != 33913 || image.Runs[len(image.Runs)-1] != (Run{12544, 33729}) {
		t.Errorf("%x: %d blocks, %v", image.Addr, n, image.Runs)
	}
	ours := make([]byte, BlockSize)
	bootBlock(ours, 133205)
	if !bytes.Equal(ours[:32], disk[0][:32]) {
		t.Errorf("boot block %x, zipl's is %x", ours[:32], disk[0][:32])
	}
}
