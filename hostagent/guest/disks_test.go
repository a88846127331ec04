package guest

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/roots"
	"github.com/secexec/secexec/hostagent/store"
)

// What a start opens: attached disks beneath the allowed folders, the guest's own
// in its folder, whatever has been put in their places since.
func TestOpenDisk(t *testing.T) {
	t.Parallel()
	f := fleet(t, &launcher{})
	base := t.TempDir()
	at := func(name string) string { return filepath.Join(base, name) }
	own := f.Store.Dir("g")
	write := func(path string) error { return os.WriteFile(path, []byte(path), 0o600) }
	if err := errors.Join(os.MkdirAll(own, 0o700), os.MkdirAll(at("disks"), 0o700), write(at("disks/a.img")), write(at("secret")), write(filepath.Join(own, "root.img")),
		os.Symlink("a.img", at("disks/inside")), os.Symlink("../secret", at("disks/out")), os.Symlink(at("secret"), filepath.Join(own, "swapped.img"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		allowed roots.Roots
		path    string
		reads   string // "": refused
	}{
		{nil, at("disks/a.img"), at("disks/a.img")},
		{nil, at("disks/out"), at("secret")},
		{roots.Roots{at("disks")}, at("disks/a.img"), at("disks/a.img")},
		{roots.Roots{at("disks")}, at("disks/inside"), at("disks/a.img")},
		{roots.Roots{at("disks")}, at("disks/out"), ""},
		{roots.Roots{at("disks")}, at("secret"), ""},
		{roots.Roots{at("disks")}, filepath.Join(own, "root.img"), filepath.Join(own, "root.img")},
		{nil, filepath.Join(own, "swapped.img"), ""},
	} {
		f.DiskRoots = c.allowed
		rec := &store.Guest{Name: "g", Disks: []store.Disk{{File: "root.img"}}}
		if filepath.Dir(c.path) != own {
			rec.Disks = append(rec.Disks, store.Disk{Path: c.path})
		}
		file, err := f.openDisk(rec)(c.path, os.O_RDWR)
		if err != nil {
			if c.reads != "" || launchCode(err) != fault.Path {
				t.Errorf("%s with %v: %v", c.path, c.allowed, err)
			}
			continue
		}
		text, err := io.ReadAll(file)
		file.Close()
		if err != nil || string(text) != c.reads {
			t.Errorf("%s with %v: reads %q %v, wants %q", c.path, c.allowed, text, err, c.reads)
		}
	}
}
