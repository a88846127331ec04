package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const helloLine = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}` + "\r\n"

// fake is the QEMU side of a connection.
type fake struct {
	t     *testing.T
	conn  net.Conn
	lines *bufio.Reader
}

// pair connects a Monitor in the making with a fake. Inside a synctest bubble.
func pair(t *testing.T) (net.Conn, *fake) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, &fake{t, theirs, bufio.NewReader(theirs)}
}

// say sends a text and tells whether anybody took it.
func (f *fake) say(text string) bool {
	_, err := f.conn.Write([]byte(text))
	return err == nil
}

// command reads one command and returns its name and id.
func (f *fake) command() (string, uint64) {
	line, err := f.lines.ReadBytes('\n')
	if err != nil {
		return "", 0
	}
	var c struct {
		Execute string
		ID      uint64
	}
	if err := json.Unmarshal(line, &c); err != nil {
		f.t.Errorf("command %q: %v", line, err)
	}
	return c.Execute, c.ID
}

func (f *fake) ok(id uint64, ret string) {
	f.say(fmt.Sprintf(`{"return": %s, "id": %d}`+"\r\n", ret, id))
}

// greet says hello and answers qmp_capabilities.
func (f *fake) greet() {
	f.say(helloLine)
	if name, id := f.command(); name == "qmp_capabilities" {
		f.ok(id, "{}")
	} else {
		f.t.Errorf("first command is %q", name)
	}
}

// connected is a Monitor past its greeting, with a fake that behaves as asked
// afterwards.
func connected(t *testing.T, then func(*fake)) *Monitor {
	t.Helper()
	conn, f := pair(t)
	go func() {
		f.greet()
		then(f)
	}()
	m, err := newMonitor(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestConnect(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		qemu func(*fake)
		want error // nil: connects
	}{
		{"well behaved", (*fake).greet, nil},
		{"silent", func(*fake) {}, context.DeadlineExceeded},
		{"hangs up", func(f *fake) { f.conn.Close() }, ErrClosed},
		{"half a greeting, then silence", func(f *fake) { f.say(helloLine[:20]) }, context.DeadlineExceeded},
		{"half a greeting, then hangs up", func(f *fake) { f.say(helloLine[:20]); f.conn.Close() }, ErrClosed},
		{"a byte a minute", func(f *fake) {
			for _, b := range []byte(helloLine) {
				if !f.say(string(b)) {
					return
				}
				time.Sleep(time.Minute)
			}
		}, context.DeadlineExceeded},
		{"a byte each 10 ms", func(f *fake) {
			for _, b := range []byte(helloLine) {
				time.Sleep(10 * time.Millisecond)
				f.say(string(b))
			}
			_, id := f.command()
			f.ok(id, "{}")
		}, nil},
		{"not JSON", func(f *fake) { f.say("SSH-2.0-OpenSSH_9.2\r\n") }, ErrProtocol},
		{"an event first", func(f *fake) { f.say(`{"event": "RESUME"}` + "\r\n") }, ErrProtocol},
		{"a line without end", func(f *fake) {
			for {
				if _, err := f.conn.Write(bytes.Repeat([]byte{'x'}, 64<<10)); err != nil {
					return
				}
			}
		}, ErrProtocol},
		{"greets twice", func(f *fake) { f.say(helloLine); f.command(); f.say(helloLine) }, ErrProtocol},
		{"greets and is silent", func(f *fake) { f.say(helloLine); f.command() }, context.DeadlineExceeded},
		{"greets and hangs up", func(f *fake) { f.say(helloLine); f.conn.Close() }, ErrClosed},
		{"hangs up after the first command", func(f *fake) { f.say(helloLine); f.command(); f.conn.Close() }, ErrClosed},
		{"hangs up in the first answer", func(f *fake) { f.say(helloLine); f.command(); f.say(`{"return"`); f.conn.Close() }, ErrClosed},
		{"never reads", func(f *fake) { f.say(helloLine) }, context.DeadlineExceeded},
		{"answers without id", func(f *fake) { f.say(helloLine); f.command(); f.say(`{"return": {}}` + "\n") }, ErrProtocol},
		{"answers garbage", func(f *fake) { f.say(helloLine); f.command(); f.say("\x00\xff\n") }, ErrProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				conn, f := pair(t)
				var qemu sync.WaitGroup
				qemu.Go(func() { c.qemu(f) })
				start := time.Now()
				m, err := newMonitor(t.Context(), conn)
				if took := time.Since(start); took > 2*CommandTimeout {
					t.Errorf("took %v", took)
				}
				switch {
				case c.want == nil && err != nil, c.want != nil && !errors.Is(err, c.want):
					t.Errorf("error %v, want %v", err, c.want)
				case err == nil:
					if got := m.Release(); got.String() != "7.2.22" || got.Package != "Debian" {
						t.Errorf("release %+v", got)
					}
					m.Close()
				}
				conn.Close()
				f.conn.Close()
				qemu.Wait()
			})
		})
	}
}

func TestCommandRefusedByQEMU(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := connected(t, func(f *fake) {
			_, id := f.command()
			f.say(fmt.Sprintf(`{"id": %d, "error": {"class": "GenericError", "desc": "no\u0007 %s"}}`+"\r\n", id, strings.Repeat("x", 5000)))
			_, id = f.command()
			f.ok(id, `{"status": "running", "singlestep": false, "running": true}`)
			_, id = f.command()
			f.ok(id, `"not an object"`)
		})
		var refusal *CommandError
		if err := m.Cont(t.Context()); !errors.As(err, &refusal) || refusal.Class != "GenericError" || len(refusal.Desc) > maxText || strings.Contains(refusal.Desc, "\a") {
			t.Errorf("error %v", err)
		}
		if s, err := m.Status(t.Context()); err != nil || !s.Running || s.State != "running" {
			t.Errorf("status %+v, %v", s, err)
		}
		if _, err := m.Status(t.Context()); !errors.Is(err, ErrProtocol) {
			t.Errorf("answer of the wrong form: %v", err)
		}
	})
}

// An answer that comes after its command's deadline is not taken for the next
// command's.
func TestLateAnswerIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := connected(t, func(f *fake) {
			_, late := f.command()
			time.Sleep(time.Second)
			f.ok(late, `{"status": "late"}`)
			f.ok(4711, `{"status": "never asked"}`)
			_, id := f.command()
			f.ok(late, `{"status": "twice"}`)
			f.ok(id, `{"status": "paused"}`)
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := m.Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("first status: %v", err)
		}
		time.Sleep(2 * time.Second)
		if s, err := m.Status(t.Context()); err != nil || s.State != "paused" {
			t.Errorf("second status: %+v, %v", s, err)
		}
	})
}

func TestAnswersInAnyOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		m := connected(t, func(f *fake) {
			var ids []uint64
			for range n {
				_, id := f.command()
				ids = append(ids, id)
			}
			for i := range ids {
				id := ids[len(ids)-1-i]
				f.ok(id, fmt.Sprint(id))
			}
		})
		var wg sync.WaitGroup
		seen := make([]uint64, n)
		for i := range n {
			wg.Go(func() {
				if err := m.Execute(t.Context(), "x", nil, &seen[i]); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got := make(map[uint64]bool)
		for _, id := range seen {
			got[id] = true
		}
		if len(got) != n {
			t.Errorf("%d different answers, want %d", len(got), n)
		}
	})
}

// Nobody reads the events; commands are still answered, and how the guest ended
// is still there to be read.
func TestEventFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const flood = 5000
		m := connected(t, func(f *fake) {
			for range flood {
				f.say(`{"event": "RTC_CHANGE", "data": {"offset": 1}, "timestamp": {"seconds": 5, "microseconds": 7}}` + "\r\n")
			}
			f.say(`{"event": "SHUTDOWN", "data": {"guest": true}, "timestamp": {"seconds": 6, "microseconds": 0}}` + "\r\n")
			_, id := f.command()
			f.ok(id, "{}")
			f.conn.Close()
		})
		if err := m.Cont(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-m.Done()
		var got []Event
		for e := range m.Events() {
			got = append(got, e)
		}
		if len(got) != maxEvents-eventReserve+1 || m.Dropped() != flood-(maxEvents-eventReserve) {
			t.Errorf("%d events kept, %d dropped", len(got), m.Dropped())
		}
		if last := got[len(got)-1]; last.Name != "SHUTDOWN" || string(last.Data) != `{"guest": true}` || !last.Time.Equal(time.Unix(6, 0)) {
			t.Errorf("last event %+v", last)
		}
		if first := got[0]; !first.Time.Equal(time.Unix(5, 7000)) {
			t.Errorf("first event %+v", first)
		}
	})
}

// A command that waits ends when QEMU dies, sends garbage, or the owner closes.
func TestWaitingCommandEnds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		qemu func(*fake)
		want error
	}{
		{"QEMU dies before it reads", func(f *fake) { f.conn.Close() }, ErrClosed},
		{"QEMU dies before it answers", func(f *fake) { f.command(); f.conn.Close() }, ErrClosed},
		{"QEMU dies in its answer", func(f *fake) { f.command(); f.say(`{"return": {`); f.conn.Close() }, ErrClosed},
		{"QEMU never reads", func(f *fake) {}, context.DeadlineExceeded},
		{"QEMU never answers", func(f *fake) { f.command() }, context.DeadlineExceeded},
		{"QEMU sends garbage", func(f *fake) { f.command(); f.say("}\n") }, ErrProtocol},
		{"QEMU sends a giant line", func(f *fake) {
			f.command()
			f.say(`{"return": "` + strings.Repeat("x", maxLine) + `"}` + "\n")
		}, ErrProtocol},
		{"QEMU sends two things in one", func(f *fake) { f.command(); f.say(`{"return": {}, "id": 2, "event": "STOP"}` + "\n") }, ErrProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := connected(t, c.qemu)
				if err := m.Cont(t.Context()); !errors.Is(err, c.want) {
					t.Errorf("error %v, want %v", err, c.want)
				}
				if errors.Is(c.want, context.DeadlineExceeded) {
					return
				}
				<-m.Done()
				if err := m.Err(); !errors.Is(err, c.want) {
					t.Errorf("connection ended with %v, want %v", err, c.want)
				}
				if err := m.Cont(t.Context()); !errors.Is(err, c.want) {
					t.Errorf("next command: %v, want %v", err, c.want)
				}
			})
		})
	}
	t.Run("the owner closes", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			m := connected(t, func(f *fake) { f.command(); io.Copy(io.Discard, f.conn) })
			time.AfterFunc(time.Second, func() { m.Close() })
			if err := m.Cont(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("error %v", err)
			}
			if err := m.Close(); err != nil {
				t.Errorf("second close: %v", err)
			}
		})
	})
}

// The longest line that is allowed arrives, and the connection lives on.
func TestLongestLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var answer string
		m := connected(t, func(f *fake) {
			_, id := f.command()
			frame := fmt.Sprintf(`{"id": %d, "return": ""}`+"\r\n", id)
			f.say(fmt.Sprintf(`{"id": %d, "return": "%s"}`+"\r\n", id, strings.Repeat("x", maxLine-len(frame))))
			_, id = f.command()
			f.ok(id, "{}")
		})
		if err := m.Execute(t.Context(), "x", nil, &answer); err != nil || len(answer) < maxLine-100 {
			t.Fatalf("%d bytes, %v", len(answer), err)
		}
		if err := m.Cont(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestQuitEndsWithTheConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := connected(t, func(f *fake) { f.command(); f.conn.Close() })
		if err := m.Quit(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestDialSocketWaits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, dir+"/none"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no socket: %v", err)
	}
	if _, err := DialSocket(t.Context(), "/"+strings.Repeat("a", 107)); !errors.Is(err, ErrConfig) {
		t.Errorf("long path: %v", err)
	}
	path := dir + "/late"
	time.AfterFunc(30*time.Millisecond, func() {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { l.Close() })
	})
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := DialSocket(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
