package qemu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// header is a qcow2 header of version 3, of an image of 1 MiB that stands alone.
func header() []byte {
	h := make([]byte, qcow2HeaderV3)
	copy(h, qcow2Magic)
	be := binary.BigEndian
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], 16)
	be.PutUint64(h[24:], 1<<20)
	be.PutUint32(h[100:], qcow2HeaderV3)
	return h
}

func TestQcow2Headers(t *testing.T) {
	t.Parallel()
	be := binary.BigEndian
	for _, c := range []struct {
		name   string
		change func(h []byte) []byte
		words  string // "": accepted
	}{
		{"version 3", func(h []byte) []byte { return h }, ""},
		{"version 2", func(h []byte) []byte { be.PutUint32(h[4:], 2); return h[:qcow2HeaderV2] }, ""},
		{"version 2, no features", func(h []byte) []byte { be.PutUint32(h[4:], 2); be.PutUint64(h[72:], 1<<40); return h }, ""},
		{"in use by the last QEMU", func(h []byte) []byte { h[79] = 1; return h }, ""},
		{"compression type and extended L2 entries", func(h []byte) []byte { h[79] = 24; return h }, ""},
		{"empty file", func([]byte) []byte { return nil }, "does not start with"},
		{"raw", func([]byte) []byte { return make([]byte, 512) }, "does not start with"},
		{"cut off", func(h []byte) []byte { return h[:qcow2HeaderV3-1] }, "cut off"},
		{"version 1", func(h []byte) []byte { h[7] = 1; return h }, "version 1"},
		{"version 4", func(h []byte) []byte { h[7] = 4; return h }, "version 4"},
		{"backing file", func(h []byte) []byte { h[15] = 200; return h }, "backing file"},
		{"backing file far behind", func(h []byte) []byte { h[8] = 0x80; return h }, "backing file"},
		{"external data file", func(h []byte) []byte { h[79] = 4; return h }, "another file"},
		{"encrypted", func(h []byte) []byte { h[35] = 2; return h }, "encrypted"},
		{"corrupt", func(h []byte) []byte { h[79] = 2; return h }, "qemu-img check"},
		{"unknown feature", func(h []byte) []byte { h[72] = 1; return h }, "unknown features"},
		{"size zero", func(h []byte) []byte { be.PutUint64(h[24:], 0); return h }, "size of 0"},
		{"huge", func(h []byte) []byte { h[24] = 0x80; return h }, "size of"},
		{"tiny clusters", func(h []byte) []byte { h[23] = 8; return h }, "clusters"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := checkQcow2(bytes.NewReader(c.change(header())))
			switch {
			case c.words == "" && err != nil:
				t.Error(err)
			case c.words != "" && (!errors.Is(err, ErrImage) || !strings.Contains(err.Error(), c.words)):
				t.Errorf("%v, want an error about %s", err, c.words)
			}
		})
	}
}

// What is accepted names no other file, whatever its other bytes are.
func FuzzQcow2(f *testing.F) {
	f.Add(header())
	f.Add(header()[:qcow2HeaderV2])
	f.Fuzz(func(t *testing.T, h []byte) {
		if checkQcow2(bytes.NewReader(h)) != nil {
			return
		}
		be := binary.BigEndian
		if len(h) < qcow2HeaderV2 || be.Uint64(h[8:]) != 0 || be.Uint32(h[32:]) != 0 || be.Uint32(h[4:]) == 3 && h[79]&qcow2DataFile != 0 {
			t.Errorf("accepted: %x", h)
		}
	})
}

func TestCheckImage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	image := write("qcow2", header())
	for _, c := range []struct {
		name, path string
		format     Format
		want       error
		words      string
	}{
		{name: "raw", path: write("raw", make([]byte, 1024)), format: Raw},
		{name: "raw by default", path: write("raw2", make([]byte, 512))},
		{name: "qcow2", path: image, format: Qcow2},
		{name: "qcow2 as raw would be its bytes", path: write("qcow2-512", append(header(), make([]byte, 512-qcow2HeaderV3)...)), format: Raw},
		{name: "raw of any size", path: write("odd", make([]byte, 513))},
		{name: "raw as qcow2", path: filepath.Join(dir, "raw"), format: Qcow2, want: ErrImage, words: "qcow2 header"},
		{name: "folder", path: dir, want: ErrDisk, words: "neither"},
		{name: "pipe", path: fifo, want: ErrDisk, words: "neither"},
		{name: "character device", path: "/dev/null", want: ErrDisk, words: "neither"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, err := os.OpenFile(c.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			d := Disk{Path: c.path, Format: c.format}
			err = d.CheckImage(f)
			if !errors.Is(err, c.want) || err != nil && (!strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), c.path)) {
				t.Errorf("%v, want %v about %s", err, c.want, c.words)
			}
			if d.Device {
				t.Error("it passes for a block device")
			}
		})
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !LooksLikeQcow2(f) || LooksLikeQcow2(bytes.NewReader(make([]byte, 3))) || LooksLikeQcow2(bytes.NewReader(nil)) {
		t.Error("LooksLikeQcow2")
	}
}
