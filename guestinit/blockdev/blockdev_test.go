package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/fstest"
)

func disk(fsys fstest.MapFS, name, serial, dev, size string) {
	fsys[name+"/serial"] = &fstest.MapFile{Data: []byte(serial)}
	fsys[name+"/dev"] = &fstest.MapFile{Data: []byte(dev)}
	fsys[name+"/size"] = &fstest.MapFile{Data: []byte(size)}
}

func TestFind(t *testing.T) {
	t.Parallel()
	fsys := fstest.MapFS{"loop0/dev": &fstest.MapFile{Data: []byte("7:0\n")}}
	if _, err := FindSerial(fsys, "root"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no disk: %v", err)
	}
	disk(fsys, "vda", "data\n", "254:0\n", "8\n")
	disk(fsys, "vdb", "root", "254:16\n", "131072\n")
	disk(fsys, "vdc", "root2", "254:32\n", "8\n")
	d, err := FindSerial(fsys, "root")
	if err != nil || *d != (Disk{"vdb", 254, 16, 64 << 20}) {
		t.Errorf("got %+v %v", d, err)
	}
	disk(fsys, "vdd", "root", "254:48\n", "8\n")
	if _, err := FindSerial(fsys, "root"); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("two disks: %v", err)
	}
}

// table returns a disk with a partition table of these GUIDs, zero for unused.
func table(blockSize int, ids ...[16]byte) []byte {
	le := binary.LittleEndian
	disk := make([]byte, 40*blockSize)
	h := disk[blockSize:]
	copy(h, gptSignature)
	le.PutUint64(h[gptEntriesAt:], 2)
	le.PutUint32(h[gptCountAt:], 128)
	le.PutUint32(h[gptSizeAt:], 128)
	for i, id := range ids {
		if id == [16]byte{} {
			continue
		}
		e := disk[2*blockSize+128*i:]
		e[0] = 1 // some type
		copy(e[16:], []byte{id[3], id[2], id[1], id[0], id[5], id[4], id[7], id[6]})
		copy(e[24:], id[8:])
	}
	return disk
}

func TestFindPartition(t *testing.T) {
	t.Parallel()
	one, two := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9}, [16]byte{2, 2, 3, 4, 5, 6, 7, 8, 9}
	sys, dev := fstest.MapFS{}, fstest.MapFS{}
	add := func(name string, blockSize int, data []byte) {
		disk(sys, name, "boot", "254:0\n", "8\n")
		sys[name+"/queue/logical_block_size"] = &fstest.MapFile{Data: fmt.Appendln(nil, blockSize)}
		dev[name] = &fstest.MapFile{Data: data}
	}
	partition := func(disk, name, number, minor string) {
		sys[disk+"/"+name+"/partition"] = &fstest.MapFile{Data: []byte(number + "\n")}
		sys[disk+"/"+name+"/dev"] = &fstest.MapFile{Data: []byte("254:" + minor + "\n")}
		sys[disk+"/"+name+"/size"] = &fstest.MapFile{Data: []byte("8\n")}
	}
	want := func(id [16]byte, name string, minor uint32, want error) {
		t.Helper()
		d, err := FindPartition(sys, dev, id)
		if !errors.Is(err, want) || err == nil && *d != (Disk{name, 254, minor, 4096}) {
			t.Errorf("got %+v %v", d, err)
		}
	}
	add("loop0", 512, nil)
	add("vda", 512, table(512, one, [16]byte{}, two))
	disk(sys, "vdx", "not in dev", "254:9\n", "8\n")
	want(two, "", 0, ErrNotFound) // the kernel has not read the table yet
	partition("vda", "vda1", "1", "1")
	partition("vda", "vda3", "3", "3")
	want(one, "vda/vda1", 1, nil)
	want(two, "vda/vda3", 3, nil)
	want([16]byte{}, "", 0, ErrNotFound)
	add("vdb", 4096, table(4096, [16]byte{}, one))
	partition("vdb", "vdb2", "2", "18")
	want(one, "", 0, ErrAmbiguous)
	want(two, "vda/vda3", 3, nil)
	add("vda", 512, table(512, two, two))
	partition("vda", "vda2", "2", "2")
	want(two, "", 0, ErrAmbiguous)
	want(one, "vdb/vdb2", 18, nil)
}

// Bytes that are no table, or a table beyond all measure.
func TestFindGUIDRefusals(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	id := [16]byte{1, 2, 3}
	for name, spoil := range map[string]func(h []byte){
		"signature":    func(h []byte) { h[0]++ },
		"many entries": func(h []byte) { le.PutUint32(h[gptCountAt:], 1<<31) },
		"small entry":  func(h []byte) { le.PutUint32(h[gptSizeAt:], 16) },
		"huge entry":   func(h []byte) { le.PutUint32(h[gptSizeAt:], 1<<31) },
		"far away":     func(h []byte) { le.PutUint64(h[gptEntriesAt:], 1<<63) },
		"beyond":       func(h []byte) { le.PutUint64(h[gptEntriesAt:], 30) },
	} {
		d := table(512, id)
		if got := findGUID(bytes.NewReader(d), 512, id); !slices.Equal(got, []int{1}) {
			t.Fatalf("found %v", got)
		}
		spoil(d[512:])
		if got := findGUID(bytes.NewReader(d), 512, id); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, size := range []int{-1, 0, 1 << 20} {
		if got := findGUID(bytes.NewReader(nil), size, id); got != nil {
			t.Errorf("block size %d: %v", size, got)
		}
	}
}

func FuzzFindGUID(f *testing.F) {
	f.Add(table(512, [16]byte{1})[:3*512])
	f.Fuzz(func(t *testing.T, disk []byte) {
		for _, n := range findGUID(bytes.NewReader(disk), 512, [16]byte{1}) {
			if n < 1 || n > gptMaxTable/128 {
				t.Errorf("partition %d", n)
			}
		}
	})
}

func TestFindRefusesOddNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{{"254", "8"}, {"a:b", "8"}, {"254:0", "-1"}, {"254:0", ""}, {"254:0", "36028797018963968"}, {"4294967296:0", "8"}} {
		fsys := fstest.MapFS{}
		disk(fsys, "vda", "root", c[0], c[1])
		if d, err := FindSerial(fsys, "root"); err == nil {
			t.Errorf("dev %q size %q: %+v", c[0], c[1], d)
		}
	}
}
