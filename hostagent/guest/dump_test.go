package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/hostagent/store"
	"github.com/secexec/secexec/seimage"
)

// dumper is a QEMU that is asked for a dump: it takes the descriptor as QEMU
// does, and write is what it does with it.
type dumper struct {
	write  func(f *os.File) error // its error: the dump failed
	refuse bool                   // dump-guest-memory is refused

	mu     sync.Mutex
	status string
	closed bool // closefd came
	files  []*os.File
}

func (d *dumper) set(status string) { d.mu.Lock(); d.status = status; d.mu.Unlock() }

// monitor connects to it.
func (d *dumper) monitor(t *testing.T) *qemu.Monitor {
	t.Helper()
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "qmp"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	d.set("none")
	go func() {
		c, err := l.AcceptUnix()
		if err == nil {
			d.serve(t, c)
		}
	}()
	m, err := qemu.Dial(t.Context(), filepath.Join(dir, "qmp"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func (d *dumper) serve(t *testing.T, c *net.UnixConn) {
	defer c.Close()
	fmt.Fprint(c, `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}`+"\r\n")
	buf, oob := make([]byte, 4096), make([]byte, 64)
	for {
		n, o, _, _, err := c.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			return
		}
		var command struct {
			Execute   string
			Arguments struct {
				Fdname, Protocol string
				Detach           bool
			}
			ID uint64
		}
		if err := json.Unmarshal(buf[:n], &command); err != nil { // one at a time: the test waits for answers
			t.Errorf("command %q: %v", buf[:n], err)
			return
		}
		ret := `"return":{}`
		switch command.Execute {
		case "getfd":
			messages, err := unix.ParseSocketControlMessage(oob[:o])
			if err != nil || len(messages) != 1 || command.Arguments.Fdname != "dump" {
				t.Errorf("getfd came with %d messages, %v", len(messages), err)
				return
			}
			fds, _ := unix.ParseUnixRights(&messages[0])
			if flags, _ := unix.FcntlInt(uintptr(fds[0]), unix.F_GETFL, 0); flags&unix.O_NONBLOCK != 0 {
				t.Error("the descriptor does not block: QEMU would take that for an error")
			}
			d.files = append(d.files, os.NewFile(uintptr(fds[0]), "dump"))
		case "closefd":
			d.mu.Lock()
			d.closed = true
			d.mu.Unlock()
			d.files[len(d.files)-1].Close()
		case "dump-guest-memory":
			if command.Arguments.Protocol != "fd:dump" || !command.Arguments.Detach {
				t.Errorf("dump with %+v", command.Arguments)
			}
			if d.refuse {
				ret = `"error":{"class":"GenericError","desc":"dump is not possible"}`
				break
			}
			d.set("active")
			f := d.files[len(d.files)-1]
			go func() {
				err := d.write(f)
				f.Close()
				if err != nil {
					d.set("failed")
				} else {
					d.set("completed")
				}
			}()
		case "query-dump":
			d.mu.Lock()
			ret = fmt.Sprintf(`"return":{"status":%q,"completed":1,"total":67108864}`, d.status)
			d.mu.Unlock()
		}
		fmt.Fprintf(c, `{%s,"id":%d}`+"\r\n", ret, command.ID)
	}
}

func TestDump(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("encrypted page "), 1<<18)
	whole := func(f *os.File) error { _, err := f.Write(content); return err }
	taken := func(err error) func([]byte, uint64) error { return func([]byte, uint64) error { return err } }
	full := errors.New("no space left on device")
	for _, c := range []struct {
		name  string
		d     *dumper
		take  func([]byte, uint64) error
		words string // "": complete
	}{
		{"complete", &dumper{write: whole}, nil, ""},
		{"empty", &dumper{write: func(*os.File) error { return nil }}, nil, ""},
		{"refused", &dumper{refuse: true}, nil, "dump is not possible"},
		{"fails in the middle", &dumper{write: func(f *os.File) error { whole(f); return full }}, nil, `QEMU says "failed"`},
		{"the taker's disk is full", &dumper{write: whole}, taken(full), "no space left"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := c.d.monitor(t)
			var got bytes.Buffer
			var seen uint64
			take := c.take
			if take == nil {
				take = func(piece []byte, total uint64) error { got.Write(piece); seen = max(seen, total); return nil }
			}
			err := dump(t.Context(), m, time.Minute, take)
			if c.words != "" {
				if err == nil || !strings.Contains(err.Error(), c.words) {
					t.Errorf("error %v, want one about %q", err, c.words)
				}
				if c.d.refuse && !c.d.closed {
					t.Error("QEMU keeps the descriptor")
				}
				return
			}
			if err != nil || c.name == "complete" && (!bytes.Equal(got.Bytes(), content) || seen != 64<<20) {
				t.Errorf("%d bytes of %d, %v", got.Len(), seen, err)
			}
		})
	}
}

// Whatever ends a dump early, QEMU's next byte finds the pipe closed, and the
// next dump is possible.
func TestDumpEndsEarly(t *testing.T) {
	t.Parallel()
	endless := func(gone chan error) *dumper {
		return &dumper{write: func(f *os.File) error {
			for {
				if _, err := f.Write(make([]byte, 4096)); err != nil {
					gone <- err
					return err
				}
			}
		}}
	}
	for name, c := range map[string]struct {
		stall time.Duration
		do    func(cancel context.CancelFunc, gone chan error) error // at the first piece
		words string
	}{
		"cancelled":      {time.Minute, func(cancel context.CancelFunc, _ chan error) error { cancel(); return nil }, "canceled"},
		"taker is stuck": {100 * time.Millisecond, func(_ context.CancelFunc, gone chan error) error { gone <- <-gone; return nil }, "given up"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gone := make(chan error, 2)
			d := endless(gone)
			m := d.monitor(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			first := true
			err := dump(ctx, m, c.stall, func([]byte, uint64) error {
				if !first {
					return nil
				}
				first = false
				return c.do(cancel, gone)
			})
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("error %v, want one about %q", err, c.words)
			}
			if err := <-gone; !errors.Is(err, unix.EPIPE) {
				t.Errorf("QEMU saw %v", err)
			}
			d.write = func(f *os.File) error { _, err := io.WriteString(f, "again"); return err }
			if err := dump(t.Context(), m, time.Minute, func([]byte, uint64) error { return nil }); err != nil {
				t.Errorf("the next dump: %v", err)
			}
		})
	}
	t.Run("QEMU writes nothing", func(t *testing.T) {
		t.Parallel()
		d := &dumper{}
		release := make(chan struct{})
		d.write = func(f *os.File) error { <-release; return errors.New("late") }
		time.AfterFunc(2*time.Second, func() { close(release) }) // well after the dump gave up
		err := dump(t.Context(), d.monitor(t), 100*time.Millisecond, func([]byte, uint64) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "given up") {
			t.Errorf("error %v", err)
		}
	})
}

// What can be no protected dump is refused, with the reason.
func TestDumpRefusals(t *testing.T) {
	t.Parallel()
	f := fleet(t, &launcher{}, stored("g", Stopped, 0))
	g, err := f.Get("g")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.update(func(rec *store.Guest) error { rec.Image = "boot.seimg"; return nil }); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(f.Store.Dir("g"), "boot.seimg")
	able := platform.Limits{Dump: true}
	take := func([]byte, uint64) error { t.Error("a piece of a dump"); return nil }

	want(t, "emulated", g.Dump(t.Context(), take), fault.NoDump, "plain text what its owner sealed")
	f.Platform = z{}
	want(t, "old machine", g.Dump(t.Context(), take), fault.NoDump, "no protected dump")
	f.Platform = z{limits: able}
	want(t, "no image", g.Dump(t.Context(), take), fault.Storage, "boot.seimg")
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, "damaged image", g.Dump(t.Context(), take), fault.Bundle, "")
	seal(t, path, seimage.DefaultFlags)
	want(t, "image forbids", g.Dump(t.Context(), take), fault.NoDump, "--enable-dump")
	seal(t, path, seimage.DefaultFlags|seimage.AllowDump)
	want(t, "not running", g.Dump(t.Context(), take), fault.WrongState, "stopped")
}

// A running guest is dumped through its own monitor; two at a time are refused.
func TestDumpOfARunningGuest(t *testing.T) {
	t.Parallel()
	r := newRoom(t, bootsUp)
	f, g := inRoom(t, r, kept(t, stored("g", Created, 0)), nil)
	hash := seal(t, filepath.Join(g.dir(), "boot.seimg"), seimage.DefaultFlags|seimage.AllowDump)
	f.Platform = z{limits: platform.Limits{Dump: true}, hashes: [][32]byte{hash}}
	if err := g.Start(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	becomes(t, g, Ready)
	g.dumping.Store(true)
	want(t, "two at a time", g.Dump(t.Context(), nil), fault.WrongState, "is being dumped")
	g.dumping.Store(false)
	// This machine takes every command and has no dump to give.
	want(t, "QEMU without a dump", g.Dump(t.Context(), nil), fault.NoDump, `QEMU says ""`)
}
