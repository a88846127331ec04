package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHasDevice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if hasDevice(dir, vsockDevice) || hasDevice(dir+"/none", vsockDevice) {
		t.Error("a vsock where there is no device")
	}
	add := func(name, id string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "device"), []byte(id+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	add("virtio0", "0x0002")
	if hasDevice(dir, vsockDevice) {
		t.Error("a disk passes for a vsock")
	}
	add("virtio1", "0x0013")
	if !hasDevice(dir, vsockDevice) || hasDevice(dir, "0x0001") {
		t.Error("the vsock is not found, or more is")
	}
}

func TestModulesOfVsock(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]bool{
		"03-vsock.ko": true, "04-vmw_vsock_virtio_transport_common.ko": true, "05-vmw_vsock_virtio_transport.ko": true,
		"00-virtio_blk.ko": false, "02-virtio_console.ko": false, "06-virtio_net.ko": false,
	} {
		if isVsock(file) != want {
			t.Errorf("%s: %v", file, !want)
		}
	}
}
