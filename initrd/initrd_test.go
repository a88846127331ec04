package initrd

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/secexec/secexec/cpio"
	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/secret"
)

var update = flag.Bool("update", false, "rewrite golden files")

// member is what a cpio archive says of one file.
type member struct {
	cpio.Header
	content string
}

func readCPIO(t *testing.T, b []byte) (names []string, members map[string]member) {
	t.Helper()
	members = make(map[string]member)
	for r := cpio.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names, members
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		members[h.Name] = member{h, string(content)}
	}
}

// plan writes a module tree and programs to a folder.
func plan(t *testing.T) Plan {
	t.Helper()
	dir := t.TempDir()
	for name, file := range fakeFS() {
		write(t, filepath.Join(dir, "lib/modules/6.12-test", name), file.Data)
	}
	for _, line := range strings.Split(string(fakeFS()["modules.dep"].Data), "\n") {
		file, _, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		stem, suffix, _ := moduleName(file)
		write(t, filepath.Join(dir, "lib/modules/6.12-test", file), compress(t, suffix, fakeELF(elfRel, stem)))
	}
	write(t, filepath.Join(dir, "guestinit"), fakeELF(elfExec, "guestinit"))
	write(t, filepath.Join(dir, "guestagent"), fakeELF(elfDyn, "guestagent"))
	tree, err := OpenTree(os.DirFS(filepath.Join(dir, "lib/modules/6.12-test")), "6.12-test")
	if err != nil {
		t.Fatal(err)
	}
	return Plan{
		Tree:  tree,
		Want:  []Wanted{{Name: "dm-crypt"}, {Name: "ext4"}, {Name: "aes_s390", Optional: true}},
		Init:  filepath.Join(dir, "guestinit"),
		Agent: filepath.Join(dir, "guestagent"),
		Record: &sealed.Record{
			ImageID: [16]byte{1}, IdentitySeed: bytes.Repeat(secret.Bytes{2}, 32), EntropySeed: bytes.Repeat(secret.Bytes{5}, 32),
			Exec: &sealed.Exec{Init: "/sbin/init", StopSignal: 38},
			Root: sealed.Volume{ID: [16]byte{3}, Serial: "root", Key: bytes.Repeat(secret.Bytes{4}, sealed.KeySize),
				Offset: 16 << 20, Size: 64 << 20, FSType: "ext4"},
		},
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	p := plan(t)
	var out, again bytes.Buffer
	if err := Write(t.Context(), &out, p); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), &again, plan(t)); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Errorf("a second initrd of the same inputs differs (%v)", err)
	}
	names, members := readCPIO(t, out.Bytes())
	var listing strings.Builder
	for i, name := range names {
		m := members[name]
		fmt.Fprintf(&listing, "%06o %s\n", m.Mode, name)
		if m.Inode != uint32(i+1) || m.UID|m.GID|m.MTime != 0 {
			t.Errorf("%s is not reproducible: %+v", name, m)
		}
	}
	golden(t, "initrd.list", []byte(listing.String()))

	record, err := sealed.Unmarshal([]byte(members["sealed.record"].content))
	if err != nil {
		t.Fatal(err)
	}
	if len(record.Modules) == 0 {
		t.Fatal("the record names no modules")
	}
	for _, m := range record.Modules {
		stem := strings.TrimSuffix(m.File[3:], ".ko")
		if !strings.HasSuffix(members["modules/"+m.File].content, stem) {
			t.Errorf("modules/%s is not module %s", m.File, stem)
		}
	}
	if !strings.HasSuffix(members["init"].content, "guestinit") || !strings.HasSuffix(members["guestagent"].content, "guestagent") {
		t.Error("guestinit and guestagent are not in their places")
	}
	if _, err := p.Record.Marshal(); err != nil {
		t.Errorf("the caller's record was harmed: %v", err)
	}
	oracle(t, out.Bytes(), names)
}

// A package's tree, with signed modules, gives an initrd too.
func TestWriteStripped(t *testing.T) {
	t.Parallel()
	fsys := packageFS(t)
	const path = "kernel/lib/crc16.ko"
	module := fsys[path].Data
	fsys[path].Data = append(append(bytes.Clone(module), "PKCS7\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x05"...), signed...)
	want, err := Needs{Crypt: true, Console: true, FileSystems: []string{"ext4"}}.Modules()
	if err != nil {
		t.Fatal(err)
	}
	fsys["kernel/crypto/xts.ko"] = &fstest.MapFile{Data: moduleELF("depends=")}
	p := plan(t)
	p.Want = want
	for _, strip := range []bool{false, true} {
		if p.Tree, err = OpenTree(fsys, "6.12-test"); err != nil {
			t.Fatal(err)
		}
		p.Strip = strip
		var out bytes.Buffer
		if err := Write(t.Context(), &out, p); err != nil {
			t.Fatal(err)
		}
		_, members := readCPIO(t, out.Bytes())
		found := false
		for name, m := range members {
			if strings.HasSuffix(name, "-crc16.ko") {
				found = true
				if want := fsys[path].Data; strip {
					if m.content != string(module) {
						t.Errorf("%s still has its signature", name)
					}
				} else if m.content != string(want) {
					t.Errorf("%s lost its signature", name)
				}
			}
		}
		if !found {
			t.Error("crc16 is missing")
		}
	}
	// A signature that can't be cut is named with its module.
	fsys[path].Data = append(moduleELF("depends="), signed...)
	if p.Tree, err = OpenTree(fsys, "6.12-test"); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), &bytes.Buffer{}, p); err == nil || !strings.Contains(err.Error(), "strip module crc16") {
		t.Errorf("Write: %v", err)
	}
}

// oracle compares with what GNU cpio reads.
func oracle(t *testing.T, archive []byte, names []string) {
	t.Helper()
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Log("no cpio here to compare with (Debian package cpio)")
		return
	}
	cmd := exec.Command("cpio", "-t", "--quiet")
	cmd.Stdin = bytes.NewReader(archive)
	list, err := cmd.CombinedOutput()
	if want := strings.Join(names, "\n") + "\n"; err != nil || string(list) != want {
		t.Errorf("cpio lists %q (%v), want %q", list, err, want)
	}
}

// TestArchive holds a small archive to its golden bytes.
func TestArchive(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := archive(t.Context(), &out, []entry{
		{path: "etc/b", mode: cpio.Regular | 0o400, load: func() ([]byte, error) { return []byte("12345"), nil }},
		{path: "etc", mode: cpio.Folder | 0o755},
		{path: "etc/a", mode: cpio.Regular | 0o644, load: func() ([]byte, error) { return nil, nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "small.cpio", out.Bytes())
	oracle(t, out.Bytes(), []string{"etc", "etc/a", "etc/b"})
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		write(t, path, got)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s\n(-update rewrites it)", path, got, want)
	}
}

func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spoil func(*Plan)
		want  error
		word  string
	}{
		"no such module":   {func(p *Plan) { p.Want = []Wanted{{Name: "zfs"}} }, ErrNoModule, "zfs"},
		"no guestinit":     {func(p *Plan) { p.Init += "x" }, os.ErrNotExist, "guestinitx"},
		"guestinit a text": {func(p *Plan) { p.Init = filepath.Join(filepath.Dir(p.Init), "lib/modules/6.12-test/modules.dep") }, ErrNotS390x, "/init"},
		"agent a module": {func(p *Plan) {
			p.Agent = filepath.Join(filepath.Dir(p.Agent), "lib/modules/6.12-test/kernel/lib/crc16.ko")
		}, ErrNotS390x, "/guestagent"},
		"bad record": {func(p *Plan) { p.Record.Exec.Init = "init" }, sealed.ErrInvalid, "/sealed.record"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := plan(t)
			tt.spoil(&p)
			err := Write(t.Context(), &bytes.Buffer{}, p)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.word) {
				t.Errorf("Write: %v, want %v with %q", err, tt.want, tt.word)
			}
		})
	}
}

// full refuses a write after some bytes, as a full disk does.
type full struct{ room int }

var errFull = errors.New("no space left")

func (f *full) Write(b []byte) (int, error) {
	if f.room -= len(b); f.room < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestWriteStops(t *testing.T) {
	t.Parallel()
	p := plan(t)
	for _, room := range []int{0, 100, 200, 700, 2000} {
		if err := Write(t.Context(), &full{room}, p); !errors.Is(err, errFull) {
			t.Errorf("after %d bytes: Write gave %v", room, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Write(ctx, &bytes.Buffer{}, p); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: Write gave %v", err)
	}
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	p := plan(t)
	p.Templates = map[string][]byte{"scratch": []byte("one"), "cache": []byte("other")}
	var out bytes.Buffer
	if err := Write(t.Context(), &out, p); err != nil {
		t.Fatal(err)
	}
	_, members := readCPIO(t, out.Bytes())
	if m := members["templates"]; m.Mode != cpio.Folder|0o755 {
		t.Errorf("folder %+v", m)
	}
	for name, content := range p.Templates {
		if m := members["templates/"+name]; m.content != string(content) || m.Mode != cpio.Regular|0o400 {
			t.Errorf("%s: %+v", name, m)
		}
	}
}
