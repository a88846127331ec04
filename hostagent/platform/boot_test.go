package platform

import (
	"bufio"
	"context"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/secret"
)

// The test binary also plays the stand-in: "stand-in ROLE --gdb ...".
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "stand-in" {
		play(os.Args[2], os.Args[3:])
		return
	}
	os.Exit(m.Run())
}

func play(role string, args []string) {
	switch role {
	case "running", "refuse", "fail", "take-over":
		s, err := parseStandIn(args)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		s.decide = func(ctx context.Context, gdb net.Conn, ram []byte, key secret.Bytes, _ *slog.Logger) error {
			switch role {
			case "refuse":
				return fmt.Errorf("unpack: %w", &RefusedError{Command: 0x300, RC: 0x108, RRC: 5, Words: "no key slot for this host"})
			case "take-over":
				return takeOver(gdb, ram)
			case "fail":
				return errors.New("gdb stub\nis gone")
			}
			// What the real one needs is there: the key, the memory both ways,
			// the connection.
			if !strings.Contains(string(key), "PRIVATE KEY") || string(ram[:5]) != "guest" {
				return errors.New("not what was expected")
			}
			copy(ram, "GUEST")
			_, err := gdb.Write([]byte("hello"))
			return err
		}
		os.Stdout.Write(s.run(context.Background()).marshal())
	case "silent":
	case "dies":
		fmt.Fprintln(os.Stderr, "panic: something\nbroke")
		os.Exit(3)
	case "garbage":
		fmt.Println("hello")
	case "floods":
		for range 1000 {
			fmt.Println(strings.Repeat("x", 4096))
		}
	case "two-lines":
		fmt.Println(`{"running":true}`)
		fmt.Println(`{"running":true}`)
	case "running-but-fails":
		fmt.Println(`{"running":true}`)
		os.Exit(1)
	case "both":
		fmt.Println(`{"running":true,"failed":"x"}`)
	case "blank":
		fmt.Println(`{"failed":" \n"}`)
	case "neither":
		fmt.Println(`{}`)
	case "unknown":
		fmt.Println(`{"running":true,"more":1}`)
	case "hangs":
		time.Sleep(time.Minute)
	case "real":
		// The real mode of hostagent.
		if err := StandIn(context.Background(), args); err != nil {
			os.Exit(2)
		}
	}
}

// runnable skips where the test binary cannot be started.
func runnable(t *testing.T) {
	t.Helper()
	if errors.Is(runSelf(), syscall.ENOEXEC) {
		t.Skip("the kernel cannot run this test's own program: emulation by qemu-user without binfmt_misc")
	}
}

// runSelf tells whether the test binary can be started as a process.
var runSelf = sync.OnceValue(func() error { return exec.Command(os.Args[0], "stand-in", "silent").Run() })

// fakeQMP serves QMP on a socket, with this answer to query-status, and records
// the commands.
type fakeQMP struct {
	monitor *qemu.Monitor

	mu       sync.Mutex
	commands []string
}

func newFakeQMP(t *testing.T, dir, status string) *fakeQMP {
	t.Helper()
	f := new(fakeQMP)
	path := filepath.Join(dir, "qmp.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintln(conn, `{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}}}`)
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			var c struct {
				Execute string
				ID      uint64
			}
			json.Unmarshal(lines.Bytes(), &c)
			f.mu.Lock()
			f.commands = append(f.commands, c.Execute)
			f.mu.Unlock()
			ret := "{}"
			if c.Execute == "query-status" {
				ret = status
			}
			fmt.Fprintf(conn, `{"return": %s, "id": %d}`+"\n", ret, c.ID)
		}
	}()
	if f.monitor, err = qemu.Dial(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.monitor.Close() })
	return f
}

// bench is a guest as it is when Boot is called, with a fake QEMU.
func bench(t *testing.T, role string) (Emulated, BootSpec, net.Listener) {
	t.Helper()
	runnable(t)
	dir, err := os.MkdirTemp("", "boot") // short: sockets have room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	host, _ := emulatedHost(t, elliptic.P521())
	p := Emulated{HostDir: host, Program: []string{os.Args[0], "stand-in", role}}
	cfg := guest()
	cfg.RuntimeDir, cfg.MemoryMiB = dir, 1
	p.Configure(cfg)
	if err := os.WriteFile(cfg.MemoryFile, append([]byte("guest"), make([]byte, 1<<20-5)...), 0o600); err != nil {
		t.Fatal(err)
	}
	gdb, err := net.Listen("unix", cfg.GDBSocket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gdb.Close() })
	return p, BootSpec{Config: cfg, Monitor: newFakeQMP(t, dir, `{"status": "prelaunch", "running": false}`).monitor}, gdb
}

func TestBootThroughTheStandIn(t *testing.T) {
	t.Parallel()
	p, spec, gdb := bench(t, "running")
	said := make(chan string, 1)
	go func() {
		conn, err := gdb.Accept()
		if err != nil {
			said <- err.Error()
			return
		}
		text, _ := io.ReadAll(conn)
		said <- string(text)
	}()
	ram, err := os.Open(spec.Config.MemoryFile)
	if err != nil {
		t.Fatal(err)
	}
	defer ram.Close()
	if err := p.Boot(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if got := <-said; got != "hello" {
		t.Errorf("gdb stub heard %q", got)
	}
	word := make([]byte, 5)
	if _, err := ram.ReadAt(word, 0); err != nil || string(word) != "GUEST" {
		t.Errorf("guest memory holds %q, %v", word, err)
	}
	for _, path := range []string{spec.Config.MemoryFile, spec.Config.GDBSocket} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

func TestBootRefused(t *testing.T) {
	t.Parallel()
	p, spec, _ := bench(t, "refuse")
	err := p.Boot(t.Context(), spec)
	var refused *RefusedError
	if !errors.As(err, &refused) || *refused != (RefusedError{0x300, 0x108, 5, "no key slot for this host"}) {
		t.Fatalf("error %v", err)
	}
	if want := "boot guest: ultravisor refused the image: no key slot for this host (command 0x0300, rc 0x0108, rrc 0x0005)"; err.Error() != want {
		t.Errorf("error says %q, want %q", err, want)
	}
}

func TestBootFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ role, words string }{
		{"fail", "run ultravisor: gdb stub is gone"},
		{"silent", "0 bytes are not one line"},
		{"dies", "exit status 3: panic: something broke"},
		{"garbage", "read result"},
		{"floods", "not one line"},
		{"two-lines", "not one line"},
		{"running-but-fails", "exit status 1"},
		{"both", "not one of running, refused and failed"},
		{"blank", "not one of running, refused and failed"},
		{"neither", "not one of running, refused and failed"},
		{"unknown", "unknown field"},
	} {
		t.Run(c.role, func(t *testing.T) {
			t.Parallel()
			p, spec, _ := bench(t, c.role)
			err := p.Boot(t.Context(), spec)
			var refused *RefusedError
			if err == nil || errors.As(err, &refused) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("error %v, want one about %s", err, c.words)
			}
			if _, err := os.Lstat(spec.Config.MemoryFile); !errors.Is(err, os.ErrNotExist) {
				t.Error("the memory file is left")
			}
		})
	}
	t.Run("no program", func(t *testing.T) {
		t.Parallel()
		p, spec, _ := bench(t, "silent")
		p.Program = []string{"/nonexistent/hostagent"}
		if err := p.Boot(t.Context(), spec); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("guest runs already", func(t *testing.T) {
		t.Parallel()
		p, spec, _ := bench(t, "running")
		spec.Monitor = newFakeQMP(t, t.TempDir(), `{"status": "running", "running": true}`).monitor
		if err := p.Boot(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "runs already") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("QEMU is gone", func(t *testing.T) {
		t.Parallel()
		p, spec, _ := bench(t, "running")
		spec.Monitor.Close()
		if err := p.Boot(t.Context(), spec); !errors.Is(err, qemu.ErrClosed) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("stand-in hangs", func(t *testing.T) {
		t.Parallel()
		p, spec, _ := bench(t, "hangs")
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := p.Boot(ctx, spec); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

// What is wrong with a guest's memory file, the gdb socket or the key is found
// before the ultravisor starts.
func TestStandInRefusesItsSurroundings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(t *testing.T, p *Emulated, cfg *qemu.Config)
		words  string
	}{
		{"memory file too short", func(t *testing.T, _ *Emulated, cfg *qemu.Config) { os.Truncate(cfg.MemoryFile, 1<<20-1) }, "1048575 bytes"},
		{"memory file too long", func(t *testing.T, _ *Emulated, cfg *qemu.Config) { os.Truncate(cfg.MemoryFile, 1<<20+1) }, "1048577 bytes"},
		{"memory file is a link", func(t *testing.T, _ *Emulated, cfg *qemu.Config) {
			os.Rename(cfg.MemoryFile, cfg.MemoryFile+"2")
			os.Symlink(cfg.MemoryFile+"2", cfg.MemoryFile)
		}, "symbolic links"},
		{"memory file is a folder", func(t *testing.T, _ *Emulated, cfg *qemu.Config) {
			os.Remove(cfg.MemoryFile)
			os.Mkdir(cfg.MemoryFile, 0o700)
		}, "open memory file"},
		{"no memory file", func(t *testing.T, _ *Emulated, cfg *qemu.Config) { os.Remove(cfg.MemoryFile) }, "open memory file"},
		{"no host key", func(t *testing.T, p *Emulated, _ *qemu.Config) { p.HostDir = t.TempDir() }, "no host key"},
		{"host key too long", func(t *testing.T, p *Emulated, _ *qemu.Config) {
			os.WriteFile(filepath.Join(p.HostDir, hostKeyFile), make([]byte, maxKeyFile+1), 0o600)
		}, "more than"},
		{"host key empty", func(t *testing.T, p *Emulated, _ *qemu.Config) {
			os.WriteFile(filepath.Join(p.HostDir, hostKeyFile), nil, 0o600)
		}, "read host key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, spec, _ := bench(t, "running")
			c.change(t, &p, spec.Config)
			err := p.Boot(t.Context(), spec)
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("error %v, want one about %s", err, c.words)
			}
		})
	}
}

// A stand-in does not outlive the hostagent that waits for it.
func TestStandInEndsWithHostagent(t *testing.T) {
	t.Parallel()
	p, spec, _ := bench(t, "real")
	os.Remove(spec.Config.GDBSocket) // it waits for this
	cmd := exec.Command(p.Program[0], append(p.Program[1:],
		"--gdb", spec.Config.GDBSocket, "--ram", spec.Config.MemoryFile, "--size", "1048576", "--host", p.HostDir)...)
	alive, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	alive.Close()
	if err := cmd.Wait(); err != nil || time.Since(start) > dialTimeout/2 {
		t.Errorf("stand-in ended after %v with %v", time.Since(start), err)
	}
	if !strings.Contains(out.String(), "hostagent ended") {
		t.Errorf("result %q", out.String())
	}
}

func TestStandInArguments(t *testing.T) {
	t.Parallel()
	good := []string{"--gdb", "/g", "--ram", "/r", "--size", "4096", "--host", "/h"}
	if s, err := parseStandIn(good); err != nil || s.gdb != "/g" || s.ram != "/r" || s.size != 4096 || s.host != "/h" || s.firmware {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := parseStandIn(append(good[:8:8], "--firmware")); err != nil || !s.firmware {
		t.Errorf("%+v, %v", s, err)
	}
	for _, args := range [][]string{
		nil, good[:6], append(good[:8:8], "more"), {"--gdb", "/g", "--ram", "/r", "--size", "0", "--host", "/h"},
		{"--gdb", "/g", "--ram", "/r", "--size", "-1", "--host", "/h"}, {"--gdb", "/g", "--ram", "/r", "--size", "9223372036854775807", "--host", "/h"},
		append([]string{"--key", "x"}, good...), {"--help"},
	} {
		if s, err := parseStandIn(args); err == nil {
			t.Errorf("parseStandIn(%q) = %+v", args, s)
		}
	}
}

func TestSEBootIsCont(t *testing.T) {
	t.Parallel()
	f := newFakeQMP(t, t.TempDir(), `{}`)
	if err := (SE{}).Boot(t.Context(), BootSpec{Config: guest(), Monitor: f.monitor}); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := strings.Join(f.commands, " "); got != "qmp_capabilities cont" {
		t.Errorf("commands %q", got)
	}
	f.monitor.Close()
	if err := (SE{}).Boot(t.Context(), BootSpec{Monitor: f.monitor}); !errors.Is(err, qemu.ErrClosed) {
		t.Errorf("QEMU is gone: %v", err)
	}
}

func FuzzParseResult(f *testing.F) {
	f.Add([]byte(`{"running":true}` + "\n"))
	f.Add([]byte(`{"refused":{"command":768,"rc":264,"rrc":5,"words":"no slot"}}` + "\n"))
	f.Add([]byte(`{"failed":"x"}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseResult(text)
		if err != nil {
			if r != (result{}) {
				t.Errorf("error %v with result %+v", err, r)
			}
			return
		}
		if again, err := parseResult(r.marshal()); err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("result %+v reads back as %+v, %v", r, again, err)
		}
	})
}
