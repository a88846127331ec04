package qemu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		out  string
		want Release
		bad  bool
	}{
		{out: "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022 Fabrice Bellard and the QEMU Project developers\n",
			want: Release{7, 2, 22, "Debian 1:7.2+dfsg-7+deb12u18+b3", false}},
		{out: "QEMU emulator version 10.0.2\nCopyright\n", want: Release{Major: 10, Minor: 0, Micro: 2}},
		{out: "QEMU emulator version 8.2.2 (qemu-kvm-8.2.2-1.el9)\r\n", want: Release{8, 2, 2, "qemu-kvm-8.2.2-1.el9", false}},
		{out: "QEMU emulator version 9.1.0 (v9.1.0)\n", want: Release{9, 1, 0, "v9.1.0", false}},
		{out: "QEMU emulator version 7.2.22", bad: true}, // cut
		{out: "QEMU emulator version 7.2\n", bad: true},
		{out: "QEMU emulator version 77777.2.2\n", bad: true},
		{out: "qemu-img version 7.2.22\n", bad: true},
		{out: " QEMU emulator version 7.2.22\n", bad: true},
		{out: "", bad: true},
	} {
		got, err := parseVersion([]byte(c.out))
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("parseVersion(%q) = %+v, %v", c.out, got, err)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add([]byte("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\n"))
	f.Add([]byte("QEMU emulator version 10.0.2\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		r, err := parseVersion(out)
		if err != nil && r != (Release{}) {
			t.Errorf("error %v with release %+v", err, r)
		}
		checkText(t, r.Package)
	})
}

func TestOldestRelease(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		r   Release
		old bool
	}{
		{Release{Major: 7, Minor: 2}, false}, {Release{Major: 7, Minor: 10}, false}, {Release{Major: 8}, false}, {Release{Major: 10, Minor: 1}, false},
		{Release{Major: 7, Minor: 1, Micro: 99}, true}, {Release{Major: 6, Minor: 9}, true}, {Release{}, true},
	} {
		if err := c.r.Check(); errors.Is(err, ErrTooOld) != c.old {
			t.Errorf("%s: %v", c.r, err)
		}
	}
}

// program writes a shell script that stands for QEMU.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	// A fork elsewhere in the test may hold the file open for writing for a
	// moment; a fork lock keeps it from that.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVersion(t *testing.T) {
	t.Parallel()
	const print = "echo 'QEMU emulator version 8.1.0'\n"
	for _, c := range []struct {
		name, script string
		want         Release
		err          error
		words        string
	}{
		{name: "with sandbox", script: print, want: Release{Major: 8, Minor: 1, Sandbox: true}},
		{name: "without sandbox", script: `[ "$1" = -sandbox ] && exit 1` + "\n" + print, want: Release{Major: 8, Minor: 1}},
		{name: "too old", script: "echo 'QEMU emulator version 6.2.0 (Debian)'", err: ErrTooOld, words: "6.2.0"},
		{name: "not a QEMU", script: "echo hello", words: `"hello" is not the answer`},
		{name: "fails", script: "exit 3", words: "exit status 3"},
		{name: "floods", script: "yes | head -c 1000000", words: "not the answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := Version(t.Context(), program(t, c.script))
			switch {
			case c.err == nil && c.words == "":
				if err != nil || got != c.want {
					t.Errorf("Version = %+v, %v; want %+v", got, err, c.want)
				}
			case err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.words):
				t.Errorf("error %v, want %v about %s", err, c.err, c.words)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		t.Parallel()
		for _, name := range []string{t.TempDir() + "/none", "no-such-program-here"} {
			_, err := Version(t.Context(), name)
			if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "qemu-system-misc") || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v", err)
			}
		}
	})
	t.Run("hangs", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := Version(ctx, program(t, "exec sleep 60")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}
