package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "h")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestListen(t *testing.T) {
	path := filepath.Join(shortDir(t), "run", "sock")
	l, err := listen(nil, path, -1, false)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket without a group: %v %v", info, err)
	}
	if _, err := listen(nil, path, -1, false); err == nil || !strings.Contains(err.Error(), "another hostagent serves it") {
		t.Errorf("socket in use: %v", err)
	}
	// What a killed hostagent leaves.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	l, err = listen(nil, path, os.Getegid(), false)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket with a group: %v %v", info, err)
	}
	open, err := listen(nil, path+"2", os.Getegid(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if info, err := os.Stat(path + "2"); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("socket with tenants: %v %v", info, err)
	}
	if _, err := listen(nil, "/tmp/"+strings.Repeat("x", maxSocketPath), -1, false); err == nil || !strings.Contains(err.Error(), "shorter --socket") {
		t.Errorf("long path: %v", err)
	}
	file := filepath.Join(filepath.Dir(path), "file")
	if err := os.WriteFile(file, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(nil, file, -1, false); err == nil {
		t.Error("a plain file was replaced by a socket")
	}
	if got, _ := os.ReadFile(file); string(got) != "keep" {
		t.Errorf("the plain file holds %q", got)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	c, err := parse([]string{"--platform", "emulated", "--emulated-host", "h", "--ready-timeout", "5s"})
	if err != nil || c.Platform != "emulated" || !filepath.IsAbs(c.EmulatedHost) || c.State != "/var/lib/secexec" || c.Socket != "/run/secexec/hostagent.sock" {
		t.Errorf("%+v %v", c, err)
	}
	file := filepath.Join(t.TempDir(), "hostagent.yaml")
	if err := os.WriteFile(file, []byte("state: /srv/a\nruntime: /srv/b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--config", file, "--runtime", "/srv/c"}, {"--runtime=/srv/c", "-config=" + file}} {
		if c, err := parse(args); err != nil || c.State != "/srv/a" || c.Runtime != "/srv/c" {
			t.Errorf("%v: %+v %v", args, c, err)
		}
	}
	if _, err := parse([]string{"--config", file + ".none"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no settings file: %v", err)
	}
	if _, err := parse([]string{"serve"}); err == nil || !strings.Contains(err.Error(), `unknown argument "serve"`) {
		t.Errorf("%v", err)
	}
}
