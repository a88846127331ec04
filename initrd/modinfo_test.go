package initrd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

// moduleELF is an s390x module with a section .modinfo of these entries.
func moduleELF(entries ...string) []byte {
	info := []byte(strings.Join(entries, "\x00") + "\x00")
	names := []byte("\x00.shstrtab\x00.modinfo\x00")
	b := fakeELF(elfRel, "")
	infoAt := len(b)
	b = append(b, info...)
	namesAt := len(b)
	b = append(b, names...)
	at := len(b)
	header := func(name uint32, off, size int) {
		h := make([]byte, 64)
		binary.BigEndian.PutUint32(h, name)
		binary.BigEndian.PutUint64(h[0x18:], uint64(off))
		binary.BigEndian.PutUint64(h[0x20:], uint64(size))
		b = append(b, h...)
	}
	header(0, 0, 0)
	header(1, namesAt, len(names))
	header(11, infoAt, len(info))
	binary.BigEndian.PutUint64(b[0x28:], uint64(at))
	binary.BigEndian.PutUint16(b[0x3a:], 64)
	binary.BigEndian.PutUint16(b[0x3c:], 3)
	binary.BigEndian.PutUint16(b[0x3e:], 1)
	return b
}

func TestModinfo(t *testing.T) {
	t.Parallel()
	b := moduleELF("license=GPL", "depends=dm-mod,crc16", "softdep=pre: crypto-crc32c post: x y", "softdep=pre: z",
		"alias=fs-ext4", "alias=pci:v*d*", "alias=", "odd", "vermagic=6.12 SMP")
	got, err := parseModinfo(b)
	want := modinfo{needs: []string{"dm_mod", "crc16"}, pre: []string{"crypto_crc32c", "z"}, post: []string{"x", "y"}, alias: []string{"fs_ext4"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("parseModinfo gave %+v, %v, want %+v", got, err, want)
	}
	if got, err := parseModinfo(moduleELF("depends=")); err != nil || got.needs != nil {
		t.Errorf("a module without needs gave %+v, %v", got, err)
	}
	at := int(binary.BigEndian.Uint64(b[0x28:]))
	patch := func(at int, v ...byte) []byte {
		c := bytes.Clone(b)
		copy(c[at:], v)
		return c
	}
	for name, bad := range map[string][]byte{
		"no bytes":            nil,
		"no sections":         fakeELF(elfRel, "text"),
		"headers past end":    patch(0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"too many headers":    patch(0x3c, 0xff, 0xff),
		"odd header size":     patch(0x3a, 0, 40),
		"no names' index":     patch(0x3e, 0, 3),
		"names past end":      patch(at+64+0x18, 0xff),
		"modinfo past end":    patch(at+128+0x20, 0xff),
		"name past the names": patch(at+128, 0xff),
		"no .modinfo":         patch(at+128, 0, 0, 0, 1),
		"odd name":            moduleELF("depends=../x"),
	} {
		if got, err := parseModinfo(bad); err == nil {
			t.Errorf("%s: parseModinfo gave %+v", name, got)
		}
	}
}

// packageFS is the tree of fakeFS as a package has it: what depmod makes is
// missing, the modules say it themselves.
func packageFS(t testing.TB) fstest.MapFS {
	file := func(path string, entries ...string) (string, *fstest.MapFile) {
		_, suffix, _ := moduleName(path)
		return path, &fstest.MapFile{Data: compress(t, suffix, moduleELF(entries...))}
	}
	fsys := fstest.MapFS{
		"modules.builtin": {Data: []byte("kernel/drivers/char/virtio_console.ko\n")},
		"modules.order":   {Data: []byte("kernel/fs/ext4/ext4.ko\n")},
		"kernel/note.txt": {Data: []byte("no module")},
	}
	for _, f := range [][]string{
		{"kernel/fs/ext4/ext4.ko.xz", "depends=crc16,jbd2", "softdep=pre: crypto-crc32c"},
		{"kernel/fs/jbd2/jbd2.ko.zst", "depends="},
		{"kernel/lib/crc16.ko", "depends="},
		{"kernel/crypto/crc32c_generic.ko", "alias=crypto-crc32c", "alias=crc32c"},
		{"kernel/arch/s390/crypto/crc32_vx.ko", "depends=", "alias=crypto-crc32c"},
		{"kernel/drivers/md/dm-crypt.ko.gz", "depends=dm-mod,virtio_console", "softdep=nothing pre: encrypted-keys post: crc16"},
		{"kernel/drivers/md/dm-mod.ko", "depends="},
		{"kernel/loop/a.ko", "depends=b"},
		{"kernel/loop/b.ko", "depends=a"},
		{"kernel/hole.ko", "depends=not-listed"},
		{"kernel/twice.ko", "depends=hole"},
		{"updates/twice.ko", "depends="},
	} {
		path, mf := file(f[0], f[1:]...)
		fsys[path] = mf
	}
	fsys["kernel/broken.ko"] = &fstest.MapFile{Data: []byte("text")}
	return fsys
}

func TestClosureWithoutDepmod(t *testing.T) {
	t.Parallel()
	tree, err := OpenTree(packageFS(t), "6.12-test")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		want, get string
		err       error
	}{
		"soft, by alias":       {"ext4", "crc32_vx? crc32c_generic? jbd2 crc16 ext4", nil},
		"dash, built in, post": {"dm_crypt", "dm-mod dm-crypt crc16?", nil},
		"updates win":          {"twice", "twice", nil},
		"loop":                 {"a", "", ErrTree},
		"hole":                 {"hole", "", ErrTree},
		"no ELF file":          {"broken", "", ErrNotS390x},
		"not there":            {"zfs", "", ErrNoModule},
	} {
		modules, err := tree.Closure([]Wanted{{Name: tt.want}})
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: Closure: %v, want %v", name, err, tt.err)
		}
		var names []string
		for _, m := range modules {
			if m.Optional {
				m.File += "?"
			}
			names = append(names, m.File)
		}
		if got := strings.Join(names, " "); got != tt.get {
			t.Errorf("%s: Closure gave %q, want %q", name, got, tt.get)
		}
	}
	twice := packageFS(t)
	twice["kernel/again/crc16.ko"] = twice["kernel/lib/crc16.ko"]
	for name, fsys := range map[string]fs.FS{"none": nil, "empty": fstest.MapFS{}, "a name twice": twice} {
		if _, err := OpenTree(fsys, "6.12-test"); !errors.Is(err, ErrTree) {
			t.Errorf("%s: OpenTree gave %v", name, err)
		}
	}
}

func TestStripSignature(t *testing.T) {
	t.Parallel()
	module := moduleELF("depends=")
	sign := func(info string) []byte { return append(append(bytes.Clone(module), "PKCS7"+info...), signed...) }
	const good = "\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x05"
	for name, b := range map[string][]byte{"signed": sign(good), "not signed": module} {
		if got, err := stripSignature(b); err != nil || !bytes.Equal(got, module) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for name, b := range map[string][]byte{
		"mark alone":      []byte(signed),
		"X.509 of old":    sign("\x01\x04\x01\x00\x00\x00\x00\x00\x00\x00\x00\x05"),
		"no signature":    sign("\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		"longer than all": sign("\x00\x00\x02\x00\x00\x00\x00\x00\xff\xff\xff\xff"),
		"padding":         sign("\x00\x00\x02\x00\x00\x00\x00\x01\x00\x00\x00\x05"),
	} {
		if got, err := stripSignature(b); err == nil {
			t.Errorf("%s: cut to %d bytes", name, len(got))
		}
	}
	for _, b := range [][]byte{nil, []byte("~Module")} {
		if got, err := stripSignature(b); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%q became %q, %v", b, got, err)
		}
	}
}

// FuzzModule: names are plain, a cut module is a beginning of the whole.
func FuzzModule(f *testing.F) {
	f.Add(moduleELF("depends=dm-mod", "softdep=pre: a post: b", "alias=c"))
	f.Add(append(append(moduleELF(), "PKCS7\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x05"...), signed...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if info, err := parseModinfo(b); err == nil {
			for _, need := range info.needs {
				if !plainName(need) {
					t.Errorf("needs %q", need)
				}
			}
		}
		if cut, err := stripSignature(b); err == nil && !bytes.HasPrefix(b, cut) {
			t.Error("what is left is not the module's beginning")
		}
	})
}
