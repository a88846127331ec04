package initrd

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// fakeTree is a module tree with the shapes that real ones have: dashes
// against underscores, a soft dependency through an alias, built-in modules.
func fakeTree(t testing.TB) *Tree {
	t.Helper()
	tree, err := OpenTree(fakeFS(), "6.12-test")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func fakeFS() fstest.MapFS {
	text := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	return fstest.MapFS{
		"modules.dep": text(`kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko kernel/fs/jbd2/jbd2.ko.zst
kernel/fs/jbd2/jbd2.ko.zst:
kernel/lib/crc16.ko:
kernel/crypto/crc32c_generic.ko:
kernel/arch/s390/crypto/crc32_vx.ko:
kernel/drivers/md/dm-crypt.ko.gz: kernel/drivers/md/dm-mod.ko
kernel/drivers/md/dm-mod.ko:
kernel/arch/s390/crypto/aes_s390.ko: kernel/lib/libdes.ko
kernel/lib/libdes.ko:
kernel/loop/a.ko: kernel/loop/b.ko
kernel/loop/b.ko: kernel/loop/a.ko
kernel/hole.ko: kernel/not-listed.ko
kernel/uses-builtin.ko: kernel/drivers/char/virtio_console.ko
kernel/soft/x.ko:
kernel/soft/y.ko:
kernel/soft/back.ko: kernel/soft/z.ko
kernel/soft/z.ko:
`),
		"modules.softdep": text(`# Soft dependencies extracted from modules themselves.
softdep ext4 pre: crypto-crc32c
softdep dm_crypt nothing pre: encrypted-keys post: crc16
softdep x pre: y
softdep y pre: x
softdep z pre: back hole crc16
`),
		"modules.alias": text(`# Aliases extracted from modules themselves.
alias crypto-crc32c crc32_vx
alias crypto-crc32c crc32c_generic
alias virtio:d00000002v* virtio_blk
`),
		"modules.builtin": text("kernel/drivers/char/virtio_console.ko\n"),
	}
}

func TestClosure(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		want []Wanted
		get  string // a "?" marks an optional module
		err  error
		word string
	}{
		"nothing":                    {nil, "", nil, ""},
		"soft, by alias, first":      {[]Wanted{{Name: "ext4"}}, "crc32_vx? crc32c_generic? jbd2 crc16 ext4", nil, ""},
		"dash and post":              {[]Wanted{{Name: "dm_crypt"}}, "dm-mod dm-crypt crc16?", nil, ""},
		"each once":                  {[]Wanted{{Name: "dm-mod"}, {Name: "dm-crypt"}, {Name: "dm_mod"}}, "dm-mod dm-crypt crc16?", nil, ""},
		"built in":                   {[]Wanted{{Name: "virtio-console"}}, "", nil, ""},
		"needs a built-in":           {[]Wanted{{Name: "uses-builtin"}}, "uses-builtin", nil, ""},
		"optional with its needs":    {[]Wanted{{Name: "aes_s390", Optional: true}}, "libdes? aes_s390?", nil, ""},
		"optional, then needed":      {[]Wanted{{Name: "aes_s390", Optional: true}, {Name: "libdes"}}, "libdes aes_s390?", nil, ""},
		"optional, needed by needed": {[]Wanted{{Name: "aes_s390", Optional: true}, {Name: "aes-s390"}}, "libdes aes_s390", nil, ""},
		"needed, then optional":      {[]Wanted{{Name: "libdes"}, {Name: "libdes", Optional: true}}, "libdes", nil, ""},
		"soft ones that agree":       {[]Wanted{{Name: "x"}}, "y? x", nil, ""},
		"soft ones that fail":        {[]Wanted{{Name: "z"}, {Name: "back"}}, "crc16? z back", nil, ""},
		"optional, not there":        {[]Wanted{{Name: "paes_s390", Optional: true}}, "", nil, ""},
		"not there":                  {[]Wanted{{Name: "zfs"}}, "", ErrNoModule, "module zfs"},
		"loop":                       {[]Wanted{{Name: "a"}}, "", ErrTree, "needs itself"},
		"hole":                       {[]Wanted{{Name: "hole"}}, "", ErrTree, "not_listed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			modules, err := fakeTree(t).Closure(tt.want)
			if !errors.Is(err, tt.err) || (err != nil && !strings.Contains(err.Error(), tt.word)) {
				t.Fatalf("Closure: %v, want %v with %q", err, tt.err, tt.word)
			}
			var names []string
			for _, m := range modules {
				if m.Optional {
					m.File += "?"
				}
				names = append(names, m.File)
			}
			if got := strings.Join(names, " "); got != tt.get {
				t.Errorf("Closure gave %q, want %q", got, tt.get)
			}
		})
	}
}

func TestIndexRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ file, text, word string }{
		"no colon":          {"modules.dep", "kernel/a.ko\n", "no module's file"},
		"way up":            {"modules.dep", "../../etc/a.ko:\n", "no module's file"},
		"absolute":          {"modules.dep", "/a.ko:\n", "no module's file"},
		"no module":         {"modules.dep", "kernel/a.txt:\n", "no module's file"},
		"odd compression":   {"modules.dep", "kernel/a.ko.lz4:\n", "no module's file"},
		"odd name":          {"modules.dep", "kernel/a b.ko:\n", "no module's file"},
		"odd need":          {"modules.dep", "kernel/a.ko: ../b.ko\n", "no module's file"},
		"twice":             {"modules.dep", "kernel/a-b.ko:\nextra/a_b.ko.xz:\n", "listed twice"},
		"line too long":     {"modules.dep", "kernel/a.ko: " + strings.Repeat("kernel/b.ko ", maxLine/8) + "\n", "too long"},
		"too many lines":    {"modules.alias", strings.Repeat("#\n", maxLines+1), "more than"},
		"file too long":     {"modules.alias", strings.Repeat("alias "+strings.Repeat("x", 1000)+" y\n", maxIndex/1000), "longer than"},
		"no soft":           {"modules.softdep", "hard a pre: b\n", "no soft dependency"},
		"no alias":          {"modules.alias", "alias a\n", "no alias"},
		"odd builtin":       {"modules.builtin", "a\n", "no module's file"},
		"builtin, absolute": {"modules.builtin", "/kernel/a.ko\n", "no module's file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fsys := fakeFS()
			fsys[tt.file] = &fstest.MapFile{Data: []byte(tt.text)}
			_, err := OpenTree(fsys, "test")
			if !errors.Is(err, ErrTree) || !strings.Contains(err.Error(), tt.word) || !strings.Contains(err.Error(), tt.file) {
				t.Errorf("OpenTree: %v, want %v with %q and the file's name", err, ErrTree, tt.word)
			}
		})
	}
}

// FuzzIndex feeds the parsers and the walk: whatever they take, a closure has
// each module once, below the tree.
func FuzzIndex(f *testing.F) {
	fsys := fakeFS()
	f.Add(fsys["modules.dep"].Data, fsys["modules.softdep"].Data, fsys["modules.alias"].Data)
	f.Fuzz(func(t *testing.T, dep, softdep, alias []byte) {
		if len(dep) > 4096 {
			return
		}
		tree, err := OpenTree(fstest.MapFS{
			"modules.dep": {Data: dep}, "modules.softdep": {Data: softdep}, "modules.alias": {Data: alias},
		}, "fuzz")
		if err != nil {
			return
		}
		for name := range tree.index.path {
			modules, err := tree.Closure([]Wanted{{Name: "not-there", Optional: true}, {Name: name}})
			if err != nil {
				continue
			}
			var paths []string
			for _, m := range modules {
				paths = append(paths, m.Path)
				if strings.HasPrefix(m.Path, "/") || strings.Contains(m.Path, "..") && slices.Contains(strings.Split(m.Path, "/"), "..") {
					t.Errorf("path %q leaves the tree", m.Path)
				}
			}
			slices.Sort(paths)
			if len(slices.Compact(paths)) != len(modules) {
				t.Errorf("closure of %s has a module twice: %v", name, modules)
			}
		}
	})
}
