package platform

import (
	"context"
	"crypto/ecdsa"
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
	"github.com/secexec/secexec/seimage"
)

// stock is a guest in the QEMU that is installed, loaded and stopped.
type stock struct {
	cfg     *qemu.Config
	process launch.Process
	monitor *qemu.Monitor
}

// startStock loads an image on the platform; it skips where there is no QEMU.
func startStock(t *testing.T, p Emulated, image func(path string)) *stock {
	t.Helper()
	runnable(t)
	binary, err := exec.LookPath("qemu-system-s390x")
	if err != nil {
		t.Skipf("%v: Debian package qemu-system-misc", err)
	}
	release, err := qemu.Version(t.Context(), binary)
	if err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "boot") // short: sockets have room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg := guest()
	cfg.Binary, cfg.MemoryMiB, cfg.CPUs, cfg.Disks, cfg.Sandbox = binary, 64, 1, nil, release.Sandbox
	cfg.RuntimeDir, cfg.Kernel, cfg.ConsolePath = dir, filepath.Join(dir, "kernel"), filepath.Join(dir, "console")
	cfg.QMPSocket, cfg.ReadinessSocket = filepath.Join(dir, "qmp.sock"), filepath.Join(dir, "readiness.sock")
	p.Configure(cfg)
	image(cfg.Kernel)
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
	return &stock{cfg, process, monitor}
}

// boot boots the guest, waits for QEMU's end and says why the guest stopped.
func (s *stock) boot(t *testing.T, p Emulated) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	booted := p.Boot(ctx, BootSpec{Config: s.cfg, Monitor: s.monitor})
	var refused *RefusedError
	if booted != nil && !errors.As(booted, &refused) {
		t.Fatal(booted)
	}
	select {
	case <-s.process.Exited():
	case <-ctx.Done():
		t.Fatal("QEMU runs on after the guest's end")
	}
	if got := s.process.Exit(); got != (launch.Exit{Known: true}) {
		t.Errorf("QEMU: %v", got)
	}
	var why string
	for e := range s.monitor.Events() {
		if words, ok := PanicWords(e); ok {
			why = words
		}
	}
	return why, booted
}

// disabledWait is the PSW of a CPU that stops for good with a code.
func disabledWait(code uint16) []byte {
	return []byte{0x00, 0x02, 0x00, 0x01, 0x80, 0x00, 0x00, 0x00, 0, 0, 0, 0, 0, 0, byte(code >> 8), byte(code)}
}

// takeOver is a stand-in that does the least: it replaces the guest's first
// instruction through the shared memory, and lets go of the debugger.
func takeOver(gdb net.Conn, ram []byte) error {
	copy(ram[0x200:], disabledWait(waitRefused))
	copy(ram[0x11000:], []byte{0xb2, 0xb2, 0x02, 0x00}) // lpswe 0x200
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
	host, _ := emulatedHost(t, elliptic.P521())
	p := Emulated{HostDir: host, Program: []string{os.Args[0], "stand-in", "take-over"}}
	s := startStock(t, p, func(path string) {
		// A short PSW that starts at 0x11000, where nothing is that could run.
		kernel := make([]byte, 128<<10)
		copy(kernel, []byte{0x00, 0x08, 0x00, 0x00, 0x80, 0x01, 0x10, 0x00})
		if err := os.WriteFile(path, kernel, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	if why, err := s.boot(t, p); err != nil || !strings.Contains(why, "refused the image") {
		t.Errorf("the guest did not run what the stand-in put into its memory; it ended because %q, %v", why, err)
	}
	if err := s.monitor.Err(); !errors.Is(err, qemu.ErrClosed) {
		t.Errorf("monitor ended with %v", err)
	}
}

// sealFor writes an SE image for an emulated host whose kernel does nothing but
// wait a moment, as the debugger must have let go before QEMU ends, and stop its
// CPU with code 0x1234.
func sealFor(t *testing.T, path, hostDir string) {
	t.Helper()
	kernel := make([]byte, 0x13000)
	copy(kernel[0x10000:], []byte{0xa7, 0xf4, 0x10, 0x00}) // j 0x12000
	copy(kernel[0x10008:], "S390EP")
	copy(kernel[0x10430:], []byte{0, 0, 0, 0, 0, 0, 0x03, 0x80}) // longest command line
	copy(kernel[0x12000:], []byte{
		0xa5, 0x2e, 0x08, 0x00, // llilh %r2,0x800
		0xa7, 0x27, 0x00, 0x00, // brctg %r2,. counts for part of a second
		0xc0, 0x10, 0x00, 0x00, 0x00, 0x0c, // larl %r1,.+24
		0xb2, 0xb2, 0x10, 0x00, // lpswe 0(%r1)
	})
	copy(kernel[0x12020:], disabledWait(0x1234))
	doc, err := hostDocument(hostDir)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	_, err = seimage.Create(t.Context(), out, seimage.Spec{
		Kernel:  seimage.Source{R: strings.NewReader(string(kernel)), Size: int64(len(kernel))},
		Cmdline: []byte("quiet"), Hosts: []*ecdsa.PublicKey{doc.Key},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A sealed image passes the real stand-in and its kernel runs; on a host that it
// was not sealed for it is refused, and its boot loader says so too.
func TestBootASealedImage(t *testing.T) {
	t.Parallel()
	mine, _ := emulatedHost(t, elliptic.P521())
	other, _ := emulatedHost(t, elliptic.P521())
	p := Emulated{HostDir: mine, Program: []string{os.Args[0], "stand-in", "real"}}

	t.Run("admitted", func(t *testing.T) {
		t.Parallel()
		s := startStock(t, p, func(path string) { sealFor(t, path, mine) })
		why, err := s.boot(t, p)
		if err != nil || !strings.Contains(why, "0x1234") {
			console, _ := os.ReadFile(s.cfg.ConsolePath)
			t.Errorf("the guest's kernel did not run: %q, %v; console: %q", why, err, console)
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		s := startStock(t, p, func(path string) { sealFor(t, path, other) })
		why, err := s.boot(t, p)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.RC != 0x0108 || refused.RRC != 0x05 || refused.Words == "" {
			t.Errorf("error %v, want rc 0x108 and rrc 5", err)
		}
		if !strings.Contains(why, "refused the image") {
			t.Errorf("the boot loader stopped because %q", why)
		}
		if console, _ := os.ReadFile(s.cfg.ConsolePath); len(strings.TrimSpace(string(console))) == 0 {
			t.Error("the boot loader said nothing on the console")
		} else {
			t.Logf("console: %s", console)
		}
	})
}
