package ledger

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/secexec/secexec/form"
)

func TestGuestName(t *testing.T) {
	t.Parallel()
	long := "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	seen := map[string]string{}
	for _, task := range [][2]string{
		{"default", "web"}, {"k8s.io", "web"}, {"default", "Web"}, {"default", "web_1"}, {"default", "web-1"},
		{"k8s.io", long}, {"k8s.io", long[:63] + "0"}, {"a", "b/c"}, {"a/b", "c"},
	} {
		name := GuestName(task[0], task[1])
		if !form.Name.MatchString(name) {
			t.Errorf("%v: %s is no name of a guest", task, name)
		}
		if other, taken := seen[name]; taken && task[0]+"/"+task[1] != other {
			t.Errorf("%v and %s have the same name %s", task, other, name)
		}
		seen[name] = task[0] + "/" + task[1]
	}
	if name := GuestName("default", "web"); name != "c-web-82b3ade9d0" {
		t.Errorf("name %s: guests of an earlier shim are not found any more", name)
	}
}

func TestRecords(t *testing.T) {
	t.Parallel()
	l, err := Open(filepath.Join(t.TempDir(), "records"))
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	live := &Record{Namespace: "default", ID: "live", Guest: "c-live", Folder: folder, Pid: 7, Exit: &Exit{3, time.Unix(1, 0).UTC()}}
	abandoned := &Record{Namespace: "default", ID: "left", Guest: "c-left", Folder: folder, Abandoned: true}
	booted := &Record{Namespace: "default", ID: "old", Guest: "c-old", Folder: folder + "/gone"}
	for _, r := range []*Record{live, abandoned, booted} {
		if err := l.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := l.Read("c-live"); err != nil || !reflect.DeepEqual(r, live) {
		t.Errorf("read %+v %v", r, err)
	}
	if debts, err := l.Debts(); err != nil || len(debts) != 2 || debts[0].ID != "left" || debts[1].ID != "old" {
		t.Errorf("debts %+v %v", debts, err)
	}
	if err := os.WriteFile(l.path("c-bad"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if debts, err := l.Debts(); !errors.Is(err, ErrInvalid) || len(debts) != 2 {
		t.Errorf("with a spoilt record: debts %+v %v", debts, err)
	}
	for range 2 { // it may be repeated
		if err := l.Remove("c-left"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Read("c-left"); !errors.Is(err, ErrNone) {
		t.Errorf("removed: %v", err)
	}
	if err := os.Rename(l.path("c-live"), l.path("c-other")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Read("c-other"); !errors.Is(err, ErrInvalid) {
		t.Errorf("another guest's record: %v", err)
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	l, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := l.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Lock(); !errors.Is(err, ErrLocked) {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	if unlock, err = l.Lock(); err != nil {
		t.Fatal(err)
	}
	unlock()
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"namespace":"default","id":"web","guest":"c-web","folder":"/run/x","exit":{"status":3,"at":"1970-01-01T00:00:01Z"}}`))
	f.Add([]byte(`{"namespace":"k8s.io","id":"a","guest":"c-a","folder":"/f","abandoned":true} x`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parse(text)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("error %v", err)
			}
			return
		}
		l, err := Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Write(r); err != nil {
			return // a time that JSON can't hold, say
		}
		if again, err := l.Read(r.Guest); err != nil || again.ID != r.ID || again.Folder != r.Folder {
			t.Errorf("%+v became %+v %v", r, again, err)
		}
	})
}
