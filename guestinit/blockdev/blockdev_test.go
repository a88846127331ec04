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
	if _, err := Find(fsys, "root"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no disk: %v", err)
	}
	disk(fsys, "vda", "data\n", "254:0\n", "8\n")
	disk(fsys, "vdb", "root", "254:16\n", "131072\n")
	disk(fsys, "vdc", "root2", "254:32\n", "8\n")
	d, err := Find(fsys, "root")
	if err != nil || *d != (Disk{"vdb", 254, 16, 64 << 20}) {
		t.Errorf("got %+v %v", d, err)
	}
	disk(fsys, "vdd", "root", "254:48\n", "8\n")
	if _, err := Find(fsys, "root"); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("two disks: %v", err)
	}
}

func TestFindRefusesOddNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{{"254", "8"}, {"a:b", "8"}, {"254:0", "-1"}, {"254:0", ""}, {"254:0", "36028797018963968"}, {"4294967296:0", "8"}} {
		fsys := fstest.MapFS{}
		disk(fsys, "vda", "root", c[0], c[1])
		if d, err := Find(fsys, "root"); err == nil {
			t.Errorf("dev %q size %q: %+v", c[0], c[1], d)
		}
	}
}
