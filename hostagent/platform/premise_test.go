package platform

import (
	"context"
	"crypto/elliptic"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/qemu"
)

// takeOver is a stand-in that does the least: it replaces the guest's first
// instruction through the shared memory, and lets go of the debugger.
func takeOver(gdb net.Conn, ram []byte) error {
	// LPSWE 0x200 at 0x11000; at 0x200 a disabled wait with code 0x4608.
	copy(ram[0x200:], []byte{0x00, 0x02, 0x00, 0x01, 0x80, 0x00, 0x00, 0x00, 0, 0, 0, 0, 0, 0, 0x46, 0x08})
	copy(ram[0x11000:], []byte{0xb2, 0xb2, 0x02, 0x00})
	gdb.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(gdb, "$D#44"); err != nil {
		return err
	}
	answer := make([]byte, len("+$OK#9a"))
	if _, err := io.ReadFull(gdb, answer); err != nil || string(answer) != "+$OK#9a" {
		return fmt.Errorf("detach: %q, %v", answer, err)
	}
	return nil
}

// The emulated platform rests on this: a stopped QEMU runs no instruction; its
// guest's memory is the file, both ways; a debugger that detaches lets the guest
// run what the file holds by then; the guest's end ends QEMU.
func TestPremiseStandInDrivesStockQEMU(t *testing.T) {
	t.Parallel()
	runnable(t)
	binary, err := exec.LookPath("qemu-system-s390x")
	if err != nil {
		t.Skipf("%v: Debian package qemu-system-misc", err)
	}
	release, err := qemu.Version(t.Context(), binary)
	if err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "boot")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	host, _ := emulatedHost(t, elliptic.P521())
	p := Emulated{HostDir: host, Program: []string{os.Args[0], "stand-in", "take-over"}}

	// A short PSW that starts at 0x11000, where nothing is that could run.
	kernel := make([]byte, 128<<10)
	copy(kernel, []byte{0x00, 0x08, 0x00, 0x00, 0x80, 0x01, 0x10, 0x00})
	cfg := guest()
	cfg.Binary, cfg.MemoryMiB, cfg.CPUs, cfg.Disks, cfg.Sandbox = binary, 64, 1, nil, release.Sandbox
	cfg.RuntimeDir, cfg.Kernel, cfg.ConsolePath = dir, filepath.Join(dir, "kernel"), filepath.Join(dir, "console")
	cfg.QMPSocket, cfg.ReadinessSocket = filepath.Join(dir, "qmp.sock"), filepath.Join(dir, "readiness.sock")
	p.Configure(cfg)
	if err := os.WriteFile(cfg.Kernel, kernel, 0o600); err != nil {
		t.Fatal(err)
	}
	argv, err := qemu.Args(cfg)
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "qemu.log")
	process, err := launch.Direct{}.Start(t.Context(), launch.Spec{Name: cfg.Name, UUID: cfg.UUID, Argv: argv, Dir: "/", LogPath: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { process.Kill(context.Background()) })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	monitor, err := qemu.Dial(ctx, cfg.QMPSocket)
	if err != nil {
		text, _ := os.ReadFile(log)
		t.Fatalf("%v: %s", err, text)
	}
	t.Cleanup(func() { monitor.Close() })
	if err := p.Boot(ctx, BootSpec{Config: cfg, Monitor: monitor}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-process.Exited():
	case <-ctx.Done():
		t.Fatal("QEMU runs on after the guest's end")
	}
	if got := process.Exit(); got != (launch.Exit{Known: true}) {
		t.Errorf("QEMU: %v", got)
	}
	var why string
	for e := range monitor.Events() {
		if words, ok := PanicWords(e); ok {
			why = words
		}
	}
	if !strings.Contains(why, "refused the image") {
		t.Errorf("the guest did not run what the stand-in put into its memory; it ended because %q", why)
	}
	if err := monitor.Err(); !errors.Is(err, qemu.ErrClosed) {
		t.Errorf("monitor ended with %v", err)
	}
}
