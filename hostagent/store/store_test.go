package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
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
	again.Close()
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
	newer := put("newer", bytes.Replace(text, []byte(`"version":1`), []byte(`"version":2`), 1))
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
	if got, err := os.ReadFile(newer); err != nil || !bytes.Contains(got, []byte(`"version":2`)) {
		t.Errorf("newer record was touched: %v", err)
	}
	if _, err := os.Stat(s.Dir("unfinished")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unfinished folder is still there: %v", err)
	}
	if _, problems, _ := s.Load(); len(problems) != 1 {
		t.Errorf("second Load: %v", problems)
	}
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
