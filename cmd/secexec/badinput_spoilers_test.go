package main

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// spoilers put something else in an input's place. What lay there may be a link
// to a file that other tests read: it is replaced, never written to.
var spoilers = map[string]func(t *testing.T, path string){
	"missing": func(t *testing.T, path string) { must(t, os.RemoveAll(path)) },
	"empty":   func(t *testing.T, path string) { replace(t, path, nil) },
	"folder": func(t *testing.T, path string) {
		must(t, os.RemoveAll(path))
		must(t, os.Mkdir(path, 0o755))
	},
	"pipe": func(t *testing.T, path string) { // without a writer
		must(t, os.RemoveAll(path))
		must(t, syscall.Mkfifo(path, 0o600))
	},
	"loop": func(t *testing.T, path string) {
		must(t, os.RemoveAll(path))
		must(t, os.Symlink(filepath.Base(path), path))
	},
	"unreadable": func(t *testing.T, path string) { // opens, and fails to read with EIO, for root too
		must(t, os.RemoveAll(path))
		must(t, os.Symlink("/proc/self/mem", path))
	},
	"device": func(t *testing.T, path string) { // never ends
		must(t, os.RemoveAll(path))
		must(t, os.Symlink("/dev/zero", path))
	},
	"truncated": func(t *testing.T, path string) {
		info, err := os.Stat(path)
		must(t, err)
		if info.IsDir() {
			t.Skip("a folder is not truncated")
		}
		data, err := os.ReadFile(path)
		must(t, err)
		replace(t, path, data[:len(data)/2])
	},
	"other": func(t *testing.T, path string) { // more than any key has
		replace(t, path, bytes.Repeat([]byte("#!/bin/sh\necho something else\n"), 10))
	},
	"enormous": func(t *testing.T, path string) {
		replace(t, path, nil)
		must(t, os.Truncate(path, 1<<42))
	},
}

// commonSpoilers are tried also where another command has the same option.
var commonSpoilers = []string{"missing", "pipe", "unreadable"}

// obstacles stand where an output is to go.
var obstacles = map[string]func(t *testing.T, path string){
	"file":   func(t *testing.T, path string) { replace(t, path, []byte("precious")) },
	"folder": func(t *testing.T, path string) { must(t, os.MkdirAll(filepath.Join(path, "precious"), 0o755)) },
	"link":   func(t *testing.T, path string) { must(t, os.Symlink("nowhere", path)) },
	"pipe":   func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o600)) },
}

func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	must(t, os.RemoveAll(path))
	must(t, os.WriteFile(path, data, 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
