package blockdev

import (
	"errors"
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

func TestFindPartition(t *testing.T) {
	t.Parallel()
	fsys := fstest.MapFS{}
	partition := func(name, uevent, dev string) {
		disk(fsys, name, "boot", dev, "8\n")
		fsys[name+"/uevent"] = &fstest.MapFile{Data: []byte(uevent)}
	}
	id := [16]byte{0xca, 0x7d, 0x7c, 0xcb, 0x63, 0xed, 0x4c, 0x53, 0x86, 0x1c, 0x17, 0x42, 0x53, 0x60, 0x59, 0xcc}
	const line = "PARTUUID=ca7d7ccb-63ed-4c53-861c-1742536059cc\n"
	partition("vda", "MAJOR=254\nMINOR=0\nDEVTYPE=disk\n", "254:0\n")
	partition("vda1", "MAJOR=254\nPARTNAME=x"+line, "254:1\n") // a name that looks like it
	if _, err := FindPartition(fsys, id); !errors.Is(err, ErrNotFound) {
		t.Errorf("no partition: %v", err)
	}
	partition("vda2", "MAJOR=254\nPARTN=2\n"+line+"PARTNAME=root\n", "254:2\n")
	if d, err := FindPartition(fsys, id); err != nil || *d != (Disk{"vda2", 254, 2, 4096}) {
		t.Errorf("got %+v %v", d, err)
	}
	partition("vdb1", line, "254:17\n")
	if _, err := FindPartition(fsys, id); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("two partitions: %v", err)
	}
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
