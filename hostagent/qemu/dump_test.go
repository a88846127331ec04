package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeDump is an ELF core file as QEMU lays it out: header, section headers,
// memory, sections, names.
func fakeDump(names ...string) []byte {
	be := binary.BigEndian
	b := make([]byte, 64+64*(len(names)+2))
	copy(b, "\x7fELF\x02\x02\x01")
	be.PutUint16(b[16:], 4)
	be.PutUint16(b[18:], 22)
	be.PutUint64(b[40:], 64)
	be.PutUint16(b[58:], 64)
	be.PutUint16(b[60:], uint16(len(names)+2))
	be.PutUint16(b[62:], uint16(len(names)+1))
	b = append(b, "memory"...)
	table := []byte{0}
	for i, name := range names {
		s := b[64+64*(i+1):]
		be.PutUint32(s, uint32(len(table)))
		be.PutUint64(s[24:], uint64(len(b)))
		be.PutUint64(s[32:], 4)
		table = append(append(table, name...), 0)
		b = append(b, "data"...)
	}
	s := b[64+64*(len(names)+1):]
	be.PutUint64(s[24:], uint64(len(b)))
	be.PutUint64(s[32:], uint64(len(table)))
	return append(b, table...)
}

func TestCheckDump(t *testing.T) {
	t.Parallel()
	good := fakeDump("pv_mem_meta", "pv_compl")
	if err := CheckDump(bytes.NewReader(good), int64(len(good))); err != nil {
		t.Error(err)
	}
	put16 := func(at int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint16(b[at:], v); return b }
	}
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
		words  string
	}{
		{"empty", func([]byte) []byte { return nil }, "in its header"},
		{"cut in its header", func(b []byte) []byte { return b[:63] }, "in its header"},
		{"cut in its table", func(b []byte) []byte { return b[:100] }, "section table"},
		{"cut at its end", func(b []byte) []byte { return b[:len(b)-1] }, "section names"},
		{"no ELF", func(b []byte) []byte { b[0] = 0; return b }, "core file"},
		{"little-endian", func(b []byte) []byte { b[5] = 1; return b }, "core file"},
		{"a program", put16(16, 2), "core file"},
		{"another machine", put16(18, 62), "core file"},
		{"no sections: QEMU went on without the ultravisor", put16(60, 0), "refused the dump"},
		{"too many sections", put16(60, 65), "section table"},
		{"names outside", put16(62, 4), "section table"},
		{"other size of sections", put16(58, 40), "section table"},
		{"table far away", func(b []byte) []byte { b[40] = 0xff; return b }, "section table"},
		{"section outside", func(b []byte) []byte { b[64+64+24] = 0xff; return b }, "ends before its section pv_mem_meta"},
		{"section too long", func(b []byte) []byte { b[64+128+32] = 0xff; return b }, "ends before its section pv_compl"},
		{"an empty section", func(b []byte) []byte { b[64+64+39] = 0; return b }, "lacks what only the ultravisor"},
		{"one missing", func([]byte) []byte { return fakeDump("pv_mem_meta") }, "lacks what only the ultravisor"},
		{"similar names", func([]byte) []byte { return fakeDump("pv_mem_metadata", "pv_comp") }, "lacks what only the ultravisor"},
	} {
		b := c.change(bytes.Clone(good))
		if err := CheckDump(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrPlainDump) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: error %v, want one about %q", c.name, err, c.words)
		}
	}
}

func FuzzCheckDump(f *testing.F) {
	f.Add(fakeDump("pv_mem_meta", "pv_compl"))
	f.Add(fakeDump())
	f.Fuzz(func(t *testing.T, b []byte) {
		err := CheckDump(bytes.NewReader(b), int64(len(b)))
		if err == nil && (!bytes.Contains(b, []byte("pv_mem_meta")) || !bytes.Contains(b, []byte("pv_compl"))) {
			t.Error("a dump passes without the ultravisor's sections")
		}
	})
}

// stock starts the installed QEMU with a stopped guest of 64 MiB.
func stock(t *testing.T, more ...string) (*Monitor, *exec.Cmd) {
	t.Helper()
	binary, err := exec.LookPath("qemu-system-s390x")
	if err != nil {
		t.Skipf("%v: Debian package qemu-system-misc", err)
	}
	dir, err := os.MkdirTemp("", "q")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "qmp")
	cmd := exec.Command(binary, append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-machine", "s390-ccw-virtio", "-accel", "tcg", "-cpu", "max", "-m", "64", "-S",
		"-qmp", "unix:" + path + ",server=on,wait=off",
	}, more...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, cmd
}

// ended waits until QEMU is no longer dumping.
func ended(t *testing.T, m *Monitor) DumpStatus {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if s, err := m.DumpStatus(t.Context()); err != nil || s.State != "active" {
			return s
		}
	}
	t.Fatal("QEMU does not end its dump")
	return DumpStatus{}
}

// QEMU takes the pipe's descriptor, writes a dump in one pass, and gives up, alive,
// when nobody reads on. Of a guest that is not protected it is none of ours.
func TestPremiseDumpToPipe(t *testing.T) {
	t.Parallel()
	m, _ := stock(t)
	for _, all := range []bool{true, false, true} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.Fd() // blocking
		if err := m.Dump(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if !all {
			io.ReadFull(r, make([]byte, 1<<20))
			r.Close()
			if s := ended(t, m); s.State != "failed" {
				t.Errorf("a dump that nobody read ends %+v", s)
			}
			continue
		}
		dump, err := io.ReadAll(r)
		r.Close()
		if err != nil || len(dump) < 64<<20 || string(dump[:4]) != "\x7fELF" {
			t.Fatalf("%d bytes, %v", len(dump), err)
		}
		if s := ended(t, m); s.State != "completed" || s.Total != 64<<20 {
			t.Errorf("status %+v", s)
		}
		if err := CheckDump(bytes.NewReader(dump), int64(len(dump))); !errors.Is(err, ErrPlainDump) {
			t.Errorf("a plain dump passes: %v", err)
		}
	}
	if _, err := m.Status(t.Context()); err != nil {
		t.Errorf("QEMU after a dump that nobody read: %v", err)
	}
}

// QEMU's lock on an image that came as a descriptor keeps a second QEMU from
// writing it, also over another path, and two that only read from nothing.
func TestPremiseImageLock(t *testing.T) {
	t.Parallel()
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := errors.Join(os.WriteFile(image, make([]byte, 1<<20), 0o600), os.Link(image, image+"2")); err != nil {
		t.Fatal(err)
	}
	args := func(file string, readOnly bool) []string {
		return []string{
			"-blockdev", object{{"driver", "file"}, {"node-name", "d"}, {"filename", file}, {"read-only", readOnly}, {"locking", "on"}}.String(),
			"-device", "virtio-blk-ccw,drive=d",
		}
	}
	// The first one's image is descriptor 3.
	binary, err := exec.LookPath("qemu-system-s390x")
	if err != nil {
		t.Skipf("%v: Debian package qemu-system-misc", err)
	}
	run := func(readOnly bool, file *os.File, path string) (stop func()) {
		more := args(path, readOnly)
		if file != nil {
			more = append([]string{"-add-fd", "fd=3,set=1"}, args("/dev/fdset/1", readOnly)...)
		}
		dir, err := os.MkdirTemp("", "q")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		cmd := exec.Command(binary, append([]string{
			"-nodefaults", "-no-user-config", "-display", "none", "-machine", "s390-ccw-virtio", "-accel", "tcg", "-cpu", "max", "-m", "64", "-S",
			"-qmp", "unix:" + filepath.Join(dir, "qmp") + ",server=on,wait=off",
		}, more...)...)
		if file != nil {
			cmd.ExtraFiles = []*os.File{file}
		}
		var words strings.Builder
		cmd.Stderr = &words
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		exited := make(chan struct{})
		go func() { cmd.Wait(); cancel(); close(exited) }()
		stop = func() { cmd.Process.Kill(); <-exited }
		t.Cleanup(stop)
		m, err := Dial(ctx, filepath.Join(dir, "qmp"))
		if err == nil {
			m.Close()
			return stop
		}
		<-exited
		if !strings.Contains(words.String(), "lock") {
			t.Errorf("QEMU ended: %s", words.String())
		}
		return nil
	}
	open := func(flag int) *os.File {
		f, err := os.OpenFile(image, flag, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	writer := open(os.O_RDWR)
	first := run(false, writer, "")
	writer.Close() // the lock is of the open file, which QEMU has too
	if first == nil {
		t.Fatal("the first QEMU did not start")
	}
	if run(false, nil, image+"2") != nil {
		t.Error("a second QEMU writes an image that another has by descriptor")
	}
	if run(false, open(os.O_RDWR), "") != nil {
		t.Error("a second QEMU writes an image that both have by descriptor")
	}
	first()
	if run(true, open(os.O_RDONLY), "") == nil || run(true, nil, image) == nil {
		t.Error("two that only read exclude each other")
	}
}
