package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A fake of the kernel's table of addresses.
func TestAllocateCID(t *testing.T) {
	t.Parallel()
	taken := map[uint32]bool{firstCID: true, firstCID + 1: true}
	set := func(cid uint32) error {
		if taken[cid] {
			return os.NewSyscallError("VHOST_VSOCK_SET_GUEST_CID", syscall.EADDRINUSE)
		}
		taken[cid] = true
		return nil
	}
	next := uint32(0)
	count := func(n uint32) uint32 { next++; return (next - 1) % n }
	for want := range uint32(3) {
		if cid, err := allocate(set, count); err != nil || cid != firstCID+2+want {
			t.Errorf("%d, %v; want %d", cid, err, firstCID+2+want)
		}
	}
	if cid, err := allocate(set, func(n uint32) uint32 { return n - 1 }); err != nil || cid != lastCID {
		t.Errorf("the last one: %d, %v", cid, err)
	}
	if cid, err := allocate(set, func(uint32) uint32 { return 0 }); !errors.Is(err, ErrNoCID) {
		t.Errorf("none is free: %d, %v", cid, err)
	}
	tries := 0
	_, err := allocate(func(uint32) error { tries++; return syscall.ENOTTY }, count)
	if !errors.Is(err, syscall.ENOTTY) || tries != 1 {
		t.Errorf("another error: %v after %d tries", err, tries)
	}
}

// The kernel's device: addresses are unique while it is open, free afterwards.
func TestVsockDevice(t *testing.T) {
	t.Parallel()
	first, cid, err := Vsock{}.Open()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENODEV) {
		t.Skipf("%v: load the kernel module vhost_vsock", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, other, err := Vsock{}.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if cid == other || cid < firstCID || other < firstCID || cid > lastCID || other > lastCID {
		t.Errorf("addresses %d and %d", cid, other)
	}
	if err := setCID(second, cid); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("an address twice: %v", err)
	}
	first.Close()
	// The kernel takes it back a moment after the device is closed.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err = setCID(second, cid); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the address of a guest that is gone: %v", err)
		}
	}
	// No guest is behind it: who connects does not wait for ever.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if conn, err := (Vsock{}).Dial(ctx, cid); err == nil {
		conn.Close()
		t.Error("connected to a guest that does not run")
	} else if ctx.Err() != nil {
		t.Errorf("only our own patience ended it: %v", err)
	}
}

// The request's number is <linux/vhost.h>'s: _IOW(type, number, size).
func TestSetGuestCIDNumber(t *testing.T) {
	t.Parallel()
	if want := 1<<30 | binary.Size(uint64(0))<<16 | 0xaf<<8 | 0x60; setGuestCID != want {
		t.Errorf("%#x, want %#x", setGuestCID, want)
	}
}

// QEMU knows our arguments, and takes the descriptor: with one that is no vhost
// device it is the device's first request that fails.
func TestPremiseVsock(t *testing.T) {
	t.Parallel()
	binary, _ := withQEMU(t)
	help, err := exec.Command(binary, "-M", "s390-ccw-virtio", "-device", "vhost-vsock-ccw,help").CombinedOutput()
	if err != nil {
		t.Skipf("this QEMU was built without vhost-vsock: %v: %s", err, help)
	}
	for _, property := range []string{"guest-cid=<uint64>", "vhostfd=<str>", "iommu_platform=<bool>", "devno=<str>"} {
		if !strings.Contains(string(help), "\n  "+property) {
			t.Errorf("no property %s:\n%s", property, help)
		}
	}
	c := paused(t, binary)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.Vhost, c.CID = null, firstCID
	files, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(files)
	argv, err := Args(c)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(`"guest-cid":%d,"vhostfd":"%d"`, firstCID, FirstFD+len(files)-1); !strings.Contains(strings.Join(argv, " "), want) {
		t.Errorf("no %s among %q", want, argv)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.ExtraFiles = files
	words, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(words), "vhost-vsock") || !strings.Contains(string(words), "Inappropriate ioctl") {
		t.Errorf("%v: %s", err, words)
	}
}

// A configuration that can't be opened does not keep the device, and the address
// with it.
func TestOpenClosesVsock(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Config){
		"wrong": func(c *Config) { c.CPUs = 0 }, "missing": func(c *Config) { c.Kernel = "/none/image" },
	} {
		c := paused(t, "qemu-system-s390x")
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		c.Vhost, c.CID = w, firstCID
		spoil(c)
		if _, err := Open(t.Context(), c); err == nil {
			t.Errorf("%s: opened", name)
		}
		if _, err := w.Write([]byte{1}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: the device is open: %v", name, err)
		}
	}
}
