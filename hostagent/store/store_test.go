package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/launch"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func sample(name string) *Guest {
	return &Guest{
		Name: name, UUID: "6d1f3d90-8c86-4a2f-9d3c-3d2f1e0a9b8c", State: "running", Image: "boot.seimg",
		Disks: []Disk{{File: "root.img", Serial: "root"}}, MemoryMiB: 512, CPUs: 1,
		Created: time.UnixMilli(1700000000000).UTC(), Process: &launch.Identity{PID: 7, StartTicks: 8, BootID: "b"},
		Stages: []Stage{{"starting", 3, ByHost}}, Failure: &Failure{"H208", "m", "r"},
	}
}

func save(t *testing.T, s *Store, g *Guest) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(s.Dir(g.Name), 0o700), s.Save(g)); err != nil {
		t.Fatal(err)
	}
}

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	s := open(t)
	save(t, s, sample("b"))
	save(t, s, sample("a"))
	guests, problems, err := s.Load()
	if err != nil || len(problems) > 0 || len(guests) != 2 || !reflect.DeepEqual(guests[0], sample("a")) {
		t.Errorf("%+v %v %v", guests, problems, err)
	}
	if err := s.Delete("a"); err != nil {
		t.Fatal(err)
	}
	if guests, _, _ := s.Load(); len(guests) != 1 {
		t.Errorf("%d guests after Delete", len(guests))
	}
}

func TestOnlyOneHostagent(t *testing.T) {
	t.Parallel()
	s := open(t)
	if _, err := Open(s.dir); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open: %v", err)
	}
	s.Close()
	again, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	// One that ends meanwhile, or what it left.
	time.AfterFunc(100*time.Millisecond, func() { again.Close() })
	last, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	last.Close()
}

func TestOddRecords(t *testing.T) {
	t.Parallel()
	s := open(t)
	save(t, s, sample("good"))
	text, err := marshal(sample("x"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, data []byte) string {
		path := filepath.Join(s.Dir(name), recordFile)
		if err := errors.Join(os.MkdirAll(s.Dir(name), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	torn := put("torn", text[:len(text)/2])
	put("flipped", bytes.Replace(text, []byte("running"), []byte("stopped"), 1))
	newer := put("newer", bytes.Replace(text, []byte(`"version":2`), []byte(`"version":3`), 1))
	if err := os.MkdirAll(s.Dir("unfinished"), 0o700); err != nil {
		t.Fatal(err)
	}
	guests, problems, err := s.Load()
	if err != nil || len(guests) != 1 || guests[0].Name != "good" || len(problems) != 3 {
		t.Fatalf("%v %v %v", guests, problems, err)
	}
	if _, err := os.Stat(torn + ".damaged"); err != nil {
		t.Errorf("torn record is not set aside: %v", err)
	}
	if got, err := os.ReadFile(newer); err != nil || !bytes.Contains(got, []byte(`"version":3`)) {
		t.Errorf("newer record was touched: %v", err)
	}
	if _, err := os.Stat(s.Dir("unfinished")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unfinished folder is still there: %v", err)
	}
	if _, problems, _ := s.Load(); len(problems) != 1 {
		t.Errorf("second Load: %v", problems)
	}
}

// Records as hostagents wrote them, by version: what they say now, and that they
// are written as today's version at the next change.
func TestVersions(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]func(*Guest){
		"version1.json": func(*Guest) {},
		"version2.json": func(g *Guest) {
			g.Owner, g.Restart, g.Restarts = 1000, &Restart{Policy: "always", Limit: 5, WindowS: 600}, []time.Time{time.UnixMilli(1700000001000).UTC()}
			g.Autostart, g.Order, g.StartedBy, g.BootID, g.RestartAt = true, 3, "id", "b", time.UnixMilli(1700000002000).UTC()
			g.Networks, g.Resources = []Network{{Kind: "user", MAC: "52:54:00:00:00:01", Queues: 1}}, &Resources{CPUWeight: 50}
			g.Disks = append(g.Disks, Disk{Path: "/dev/vg/data", Serial: "data", Format: "raw", Bus: "virtio-scsi", Cache: "direct", Discard: "unmap"})
			g.Move = &Move{Token: "t", Phase: "leaving", Peer: "node-b"}
		},
	} {
		text, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		g := sample("g")
		want(g)
		s := open(t)
		path := filepath.Join(s.Dir("g"), recordFile)
		if err := errors.Join(os.MkdirAll(s.Dir("g"), 0o700), os.WriteFile(path, text, 0o600)); err != nil {
			t.Fatal(err)
		}
		guests, problems, err := s.Load()
		if err != nil || len(problems) > 0 || len(guests) != 1 || !reflect.DeepEqual(guests[0], g) {
			t.Fatalf("%s: %+v %v %v", file, guests, problems, err)
		}
		if err := s.Save(guests[0]); err != nil {
			t.Fatal(err)
		}
		now, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(now, []byte(`{"version":2,`)) {
			t.Errorf("%s is stored as %.40q, %v", file, now, err)
		}
		if file == "version2.json" && !bytes.Equal(now, text) {
			t.Errorf("%s changes when it is stored again:\n%s", file, now)
		}
	}
}

// A clone shares nothing that can be changed.
func TestClone(t *testing.T) {
	t.Parallel()
	g := new(Guest)
	fill(reflect.ValueOf(g).Elem())
	c := g.Clone()
	if !reflect.DeepEqual(g, c) {
		t.Fatalf("clone %+v of %+v", c, g)
	}
	shares(t, "Guest", reflect.ValueOf(g).Elem(), reflect.ValueOf(c).Elem())
}

// fill sets every field that refers to something.
func fill(v reflect.Value) {
	for i := range v.NumField() {
		f := v.Field(i)
		switch {
		case f.Type() == reflect.TypeFor[time.Time]():
		case f.Kind() == reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
			if f.Elem().Kind() == reflect.Struct {
				fill(f.Elem())
			}
		case f.Kind() == reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 2, 4))
			if f.Index(0).Kind() == reflect.Struct {
				fill(f.Index(0))
			}
		}
	}
}

func shares(t *testing.T, name string, a, b reflect.Value) {
	t.Helper()
	switch {
	case a.Type() == reflect.TypeFor[time.Time]():
	case a.Kind() == reflect.Pointer, a.Kind() == reflect.Slice, a.Kind() == reflect.Map:
		if a.Pointer() == b.Pointer() {
			t.Errorf("%s is shared", name)
		}
		if a.Kind() == reflect.Pointer {
			shares(t, name, a.Elem(), b.Elem())
		} else if a.Kind() == reflect.Slice {
			shares(t, name, a.Index(0), b.Index(0))
		}
	case a.Kind() == reflect.Struct:
		for i := range a.NumField() {
			shares(t, name+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i))
		}
	}
}

// What a state folder's file system refuses is an error, and the old record
// stays; a Load of a folder that can't be written still tells what is there.
func TestUnwritable(t *testing.T) {
	t.Parallel()
	s := open(t)
	g := sample("g")
	save(t, s, g)
	for call := range 3 {
		s.files = &failing{fails: call}
		g.State = "stopped"
		if err := s.Save(g); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("call %d fails: %v", call, err)
		}
		if guests, problems, err := s.Load(); err != nil || len(problems) > 0 || len(guests) != 1 || guests[0].State != "running" {
			t.Errorf("call %d fails: %v %v %v", call, guests, problems, err)
		}
		if _, err := os.Stat(filepath.Join(s.Dir("g"), recordFile+".new")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("call %d fails: %v", call, err)
		}
	}
	if err := s.Delete("g"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("delete: %v", err)
	}
}

// failing is a disk that is full, from some call on.
type failing struct {
	disk
	fails, calls int
}

func (f *failing) full() bool { f.calls++; return f.calls > f.fails }

func (f *failing) create(path string) (file, error) {
	if f.full() {
		return nil, syscall.ENOSPC
	}
	file, err := f.disk.create(path)
	return &failingFile{file, f}, err
}

func (f *failing) rename(from, to string) error { return syscall.ENOSPC }

func (f *failing) remove(path string) error {
	if filepath.Base(path) == recordFile {
		return syscall.ENOSPC
	}
	return f.disk.remove(path)
}

type failingFile struct {
	file
	f *failing
}

func (f *failingFile) Write(b []byte) (int, error) {
	if f.f.full() {
		n, _ := f.file.Write(b[:len(b)/2])
		return n, syscall.ENOSPC
	}
	return f.file.Write(b)
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "-a", "A", "a/b", "..", ".", "a b", "a\x00", string(make([]byte, 64))} {
		if CheckName(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
	if err := CheckName("web-1"); err != nil {
		t.Error(err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	text, err := marshal(sample("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version":1,"sha256":"","guest":{}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		g, err := unmarshal(text)
		if err != nil {
			return
		}
		if again, err := marshal(g); err == nil {
			if _, err := unmarshal(again); err != nil {
				t.Errorf("own record refused: %v", err)
			}
		}
	})
}
