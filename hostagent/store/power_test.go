package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// journal is a file system that notes what has reached its disk for good. Between
// two flushes a disk may do what it likes: of a file's new bytes it has some or
// all or nonsense, of a folder's new names any, in any order.
type journal struct {
	disk
	root  string
	inode map[string]*inode // by path, as programs see it
	names map[string][]link // by folder: changes since its flush, in order
	kept  map[string]map[string]*inode
	after func(j *journal) // each step
}

type inode struct {
	dir           bool
	data, flushed []byte
}

// link is a change of a folder: a name is given (to a file that had another one
// before, perhaps) or taken away.
type link struct {
	name, was string
	to        *inode // nil: taken away
}

func newJournal(root string, after func(*journal)) *journal {
	return &journal{
		root: root, inode: make(map[string]*inode), names: make(map[string][]link), after: after,
		kept: map[string]map[string]*inode{root: {}},
	}
}

func (j *journal) note(path, was string, to *inode) {
	dir := filepath.Dir(path)
	j.names[dir] = append(j.names[dir], link{filepath.Base(path), was, to})
	if to == nil {
		delete(j.inode, path)
	} else {
		j.inode[path] = to
	}
	j.after(j)
}

func (j *journal) mkdir(path string) error {
	j.kept[path] = make(map[string]*inode)
	delete(j.names, path)
	defer j.note(path, "", &inode{dir: true})
	return os.Mkdir(path, 0o700)
}

type handle struct {
	file
	j    *journal
	path string
}

func (f *handle) Write(b []byte) (int, error) {
	n := f.j.inode[f.path]
	n.data = append(bytes.Clone(n.data), b...)
	defer f.j.after(f.j)
	return f.file.Write(b)
}

func (f *handle) Sync() error {
	defer f.j.after(f.j)
	if n := f.j.inode[f.path]; n != nil && !n.dir {
		n.flushed = n.data
		return nil
	}
	f.j.kept[f.path] = apply(f.j.kept[f.path], f.j.names[f.path], func(int) bool { return true })
	delete(f.j.names, f.path)
	return nil
}

func (j *journal) create(path string) (file, error) {
	f, err := j.disk.create(path)
	if err != nil {
		return nil, err
	}
	j.note(path, "", &inode{})
	return &handle{f, j, path}, nil
}

func (j *journal) open(path string) (file, error) {
	f, err := j.disk.open(path)
	if err != nil {
		return nil, err
	}
	return &handle{f, j, path}, nil
}

func (j *journal) rename(from, to string) error {
	if err := j.disk.rename(from, to); err != nil {
		return err
	}
	n := j.inode[from]
	delete(j.inode, from)
	j.note(to, filepath.Base(from), n)
	return nil
}

func (j *journal) remove(path string) error {
	if err := j.disk.remove(path); err != nil {
		return err
	}
	j.note(path, "", nil)
	return nil
}

func (j *journal) removeAll(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, j.remove(filepath.Join(dir, e.Name())))
	}
	return errors.Join(err, j.remove(dir))
}

// apply makes some of a folder's changes.
func apply(names map[string]*inode, changes []link, made func(i int) bool) map[string]*inode {
	names = maps.Clone(names)
	if names == nil {
		names = make(map[string]*inode)
	}
	for i, c := range changes {
		switch {
		case !made(i):
		case c.to == nil:
			delete(names, c.name)
		default:
			names[c.name] = c.to
			if c.was != "" && names[c.was] == c.to {
				delete(names, c.was)
			}
		}
	}
	return names
}

// contents are what a file may hold whose last bytes were not flushed.
func (n *inode) contents() [][]byte {
	if bytes.Equal(n.data, n.flushed) {
		return [][]byte{n.data}
	}
	return [][]byte{n.data, n.flushed, n.data[:len(n.data)/2], n.data[:len(n.data)-1], make([]byte, len(n.data))}
}

// crashes calls do with each tree that a loss of power now may leave: files by
// path below the root, folders with a slash behind.
func (j *journal) crashes(do func(tree map[string][]byte)) {
	j.walk(j.root, "", map[string][]byte{}, func(tree map[string][]byte) { do(tree) })
}

// walk adds a folder to a tree, in each way that it may be.
func (j *journal) walk(dir, below string, tree map[string][]byte, do func(map[string][]byte)) {
	changes := j.names[dir]
	for set := range 1 << len(changes) {
		names := apply(j.kept[dir], changes, func(i int) bool { return set>>i&1 == 1 })
		j.entries(dir, below, slices.Sorted(maps.Keys(names)), names, tree, do)
	}
}

func (j *journal) entries(dir, below string, order []string, names map[string]*inode, tree map[string][]byte, do func(map[string][]byte)) {
	if len(order) == 0 {
		do(tree)
		return
	}
	name, n := order[0], names[order[0]]
	rest := func(t map[string][]byte) { j.entries(dir, below, order[1:], names, t, do) }
	if n.dir {
		t := maps.Clone(tree)
		t[below+name+"/"] = nil
		j.walk(filepath.Join(dir, name), below+name+"/", t, rest)
		return
	}
	for _, data := range n.contents() {
		t := maps.Clone(tree)
		t[below+name] = data
		rest(t)
	}
}

// A loss of power at each step of a guest's creation, changes and deletion, with
// all that the disk may have made of what was not flushed: the next Load finds
// the record of before or the one of after, complete and with its disk, and
// reports nothing.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	allowed := map[string]bool{"": true} // states that Load may find now, "": no guest
	seen := make(map[string]bool)
	found := make(map[string]int)
	check := func(j *journal) {
		j.crashes(func(tree map[string][]byte) {
			key := fmt.Sprint(slices.Sorted(maps.Keys(allowed)), slices.Sorted(maps.Keys(tree)), tree)
			if seen[key] {
				return
			}
			seen[key] = true
			state, err := afterwards(t, tree)
			found[state]++
			if err != nil || !allowed[state] {
				t.Errorf("of %v Load makes %q, %v; wants one of %v", slices.Sorted(maps.Keys(tree)), state, err, allowed)
			}
		})
	}
	j := newJournal(root, check)
	s := &Store{dir: root, files: j}
	guests, g := filepath.Join(root, guestsDir), sample("g")
	step := func(before, after string, do func() error) {
		t.Helper()
		allowed = map[string]bool{before: true, after: true}
		if err := do(); err != nil {
			t.Fatal(err)
		}
		allowed = map[string]bool{after: true} // it has returned
		check(j)
	}
	save := func(state string) func() error {
		return func() error { g.State = state; return s.Save(g) }
	}
	step("", "", func() error { return errors.Join(j.mkdir(guests), s.flush(root)) }) // as Open does
	for range 2 {                                                                     // the second one where a first one was
		step("", "created", func() error {
			if err := j.mkdir(s.Dir("g")); err != nil {
				return err
			}
			f, err := j.create(filepath.Join(s.Dir("g"), "root.img"))
			if err != nil {
				return err
			}
			_, err = f.Write([]byte("disk"))
			return errors.Join(err, f.Sync(), f.Close(), save("created")())
		})
		step("created", "running", save("running"))
		step("running", "ready", save("ready"))
		step("ready", "stopped", save("stopped"))
		// What a killed hostagent left is in nobody's way.
		step("stopped", "stopped", func() error {
			f, err := j.create(filepath.Join(s.Dir("g"), recordFile+".new"))
			if err != nil {
				return err
			}
			_, err = f.Write([]byte("half a rec"))
			return errors.Join(err, f.Close())
		})
		step("stopped", "starting", save("starting"))
		step("starting", "", func() error { return s.Delete("g") })
	}
	if len(seen) < 50 {
		t.Errorf("%d different crashes", len(seen))
	}
	for _, state := range []string{"", "created", "running", "ready", "stopped", "starting"} {
		if found[state] == 0 {
			t.Errorf("no crash leaves %q", state)
		}
	}
}

// afterwards is the state of the guest that Load finds in a tree.
func afterwards(t *testing.T, tree map[string][]byte) (string, error) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "crash")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(filepath.Join(dir, guestsDir), 0o700); err != nil { // Open does
		t.Fatal(err)
	}
	for _, path := range slices.Sorted(maps.Keys(tree)) {
		full := filepath.Join(dir, path)
		if strings.HasSuffix(path, "/") {
			err = os.MkdirAll(full, 0o700)
		} else {
			err = os.WriteFile(full, tree[path], 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	s := &Store{dir: dir, files: disk{}}
	guests, problems, err := s.Load()
	if err = errors.Join(append(problems, err)...); err != nil {
		return "?", err
	}
	if len(guests) == 0 {
		left, err := os.ReadDir(filepath.Join(dir, guestsDir))
		if len(left) > 0 {
			err = fmt.Errorf("%s is left", left[0])
		}
		return "", err
	}
	data, err := os.ReadFile(filepath.Join(s.Dir("g"), "root.img"))
	if err == nil && string(data) != "disk" {
		err = fmt.Errorf("its disk holds %q", data)
	}
	return guests[0].State, err
}

// forgetful is a journal that leaves out one flush.
type forgetful struct {
	*journal
	syncs, forget int
}

type lazy struct {
	file
	f *forgetful
}

func (l *lazy) Sync() error {
	l.f.syncs++
	if l.f.syncs == l.f.forget {
		return nil
	}
	return l.file.Sync()
}

func (f *forgetful) create(path string) (file, error) {
	file, err := f.journal.create(path)
	return &lazy{file, f}, err
}

func (f *forgetful) open(path string) (file, error) {
	file, err := f.journal.open(path)
	return &lazy{file, f}, err
}

// The simulation finds what it is for: without any one of the flushes a loss of
// power loses something.
func TestPowerLossFindsMissingFlushes(t *testing.T) {
	t.Parallel()
	for forget := range 8 { // 0: none
		root := t.TempDir()
		bad := 0
		states, seen := map[string]bool{"": true}, make(map[string]bool)
		check := func(j *journal) {
			j.crashes(func(tree map[string][]byte) {
				key := fmt.Sprint(states, slices.Sorted(maps.Keys(tree)), tree)
				if seen[key] || bad > 0 {
					return
				}
				seen[key] = true
				if state, err := afterwards(t, tree); err != nil || !states[state] {
					bad++
				}
			})
		}
		f := &forgetful{forget: forget, journal: newJournal(root, check)}
		s := &Store{dir: root, files: f}
		g := sample("g")
		if err := errors.Join(f.mkdir(filepath.Join(root, guestsDir)), (&Store{files: f.journal}).flush(root), f.mkdir(s.Dir("g"))); err != nil {
			t.Fatal(err)
		}
		part, err := f.journal.create(filepath.Join(s.Dir("g"), "root.img"))
		if err != nil {
			t.Fatal(err)
		}
		states["created"] = true
		_, err = part.Write([]byte("disk"))
		g.State = "created"
		if err := errors.Join(err, part.Sync(), part.Close(), s.Save(g)); err != nil { // flushes 1 to 4
			t.Fatal(err)
		}
		delete(states, "")
		check(f.journal)
		states["ready"] = true
		g.State = "ready"
		if err := s.Save(g); err != nil { // 5, 6
			t.Fatal(err)
		}
		delete(states, "created")
		check(f.journal)
		states[""] = true
		if err := s.Delete("g"); err != nil { // 7
			t.Fatal(err)
		}
		if (bad > 0) != (forget > 0) {
			t.Errorf("without flush %d of %d: %d crashes that lose something", forget, f.syncs, bad)
		}
	}
}
