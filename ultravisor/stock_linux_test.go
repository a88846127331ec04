package ultravisor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// stock is a guest in the QEMU that is installed, stopped before its first
// instruction.
type stock struct {
	ram     RAM    // shared with QEMU; outlives it
	gdb     string // socket
	console string // file

	qmp     io.Writer
	stopped chan uint64 // PSW address of a CPU that stopped for good
	ended   chan error  // QEMU's end, once
}

const stockMemory = 64 << 20

// startStock loads an image; it skips where there is no QEMU to ask.
func startStock(t *testing.T, image []byte) *stock {
	t.Helper()
	if runtime.GOARCH == "s390x" {
		t.Skip("starts a guest under emulation, which the build machine does itself: not inside of qemu-user")
	}
	binary, err := exec.LookPath("qemu-system-s390x")
	if err != nil {
		t.Skipf("%v: Debian package qemu-system-misc", err)
	}
	dir, err := os.MkdirTemp("", "uv") // short: sockets have room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &stock{
		gdb: filepath.Join(dir, "gdb"), console: filepath.Join(dir, "console"),
		stopped: make(chan uint64, 1), ended: make(chan error, 1),
	}
	kernel, memory := filepath.Join(dir, "kernel"), filepath.Join(dir, "ram")
	if err := os.WriteFile(kernel, image, 0o600); err != nil {
		t.Fatal(err)
	}
	s.ram = mapShared(t, memory, stockMemory)

	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	cmd := exec.CommandContext(ctx, binary,
		"-M", "s390-ccw-virtio,accel=tcg,memory-backend=ram", "-cpu", "max", "-m", "64",
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,mem-path=%s,share=on", stockMemory, memory),
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-chardev", "file,id=console,path="+s.console, "-device", "sclpconsole,chardev=console",
		"-qmp", "stdio", "-kernel", kernel, "-S", "-gdb", "unix:"+s.gdb+",server=on,wait=off")
	var words bytes.Buffer
	cmd.Stderr = &words
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.qmp = in
	read := make(chan struct{})
	go func() { // ends with QEMU
		defer close(read)
		s.listen(out)
	}()
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		<-read
		if err := cmd.Wait(); err != nil {
			s.ended <- fmt.Errorf("QEMU: %w: %s", err, words.String())
			return
		}
		s.ended <- nil
	}()
	t.Cleanup(func() { cancel(); <-exited })
	if _, err := io.WriteString(in, `{"execute":"qmp_capabilities"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	return s
}

func mapShared(t *testing.T, path string, size int) RAM {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	m, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(m) })
	return m
}

// listen reads QMP for the one event that tests wait for.
func (s *stock) listen(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var e struct {
			Event string
			Data  struct {
				Info struct {
					Address uint64 `json:"psw-addr"`
				}
			}
		}
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Event == "GUEST_PANICKED" {
			select {
			case s.stopped <- e.Data.Info.Address:
			default:
			}
		}
	}
}

// dial connects to the gdb stub.
func (s *stock) dial(t *testing.T) net.Conn {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", s.gdb)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		select {
		case err := <-s.ended:
			t.Fatalf("QEMU ended: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// end waits for QEMU's end and returns the address at which the guest's CPU
// stopped for good, 0 if it did not.
func (s *stock) end(t *testing.T) uint64 {
	t.Helper()
	select {
	case err := <-s.ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("QEMU runs on")
	}
	select {
	case addr := <-s.stopped:
		return addr
	default:
		return 0
	}
}

// words is what the guest printed.
func (s *stock) words(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(s.console)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
