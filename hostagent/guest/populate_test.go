package guest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/secexec/secexec/bundle"
	"github.com/secexec/secexec/hostagent/fault"
)

// A blank disk has its size and takes no room; a quota counts what it may take.
func TestMakeBlank(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "swap.img")
	if err := makeBlank(path, 1<<30); err != nil {
		t.Fatal(err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil || st.Size != 1<<30 || st.Blocks*512 > 64<<10 || st.Mode&0o777 != 0o600 {
		t.Errorf("%v: %d bytes in %d blocks, mode %o", err, st.Size, st.Blocks, st.Mode)
	}
	if err := os.Truncate(path, 7); err != nil {
		t.Fatal(err)
	}
	var f *fault.Error
	if err := makeBlank(path, 1<<30); !errors.As(err, &f) || f.Code != fault.Storage {
		t.Errorf("over a file that is there: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 7 {
		t.Errorf("the file that was there was changed: %v", err)
	}
	m := &bundle.Manifest{Image: bundle.Image{Part: bundle.Part{Size: 5}}, Disks: []bundle.Disk{{Part: bundle.Part{Size: 1 << 30}, Format: bundle.FormatBlank}}}
	if n := partsSize(m); n != 1<<30+5 {
		t.Errorf("%d bytes count", n)
	}
}

// A part is copied, or its blocks are shared where the file system can; either
// way it is checked.
func TestCopyPart(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{"copied": t.TempDir(), "shared": reflinks(t)} {
		t.Run(name, func(t *testing.T) {
			if dir == "" {
				t.Skip("no file system that shares blocks: it takes root, mkfs.xfs (Debian package xfsprogs) and loop devices")
			}
			data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
			m := bundle.Manifest{
				Version: bundle.Version, Name: "hello", Identity: strings.Repeat("1d", 32), MemoryMiB: 512,
				Image:    bundle.Image{Part: bundle.Part{File: "boot.seimg", Size: 1, SHA256: strings.Repeat("00", 32)}, ID: strings.Repeat("0a", 16)},
				KeySlots: []bundle.KeySlot{{HostKeyHash: strings.Repeat("5e", 32)}},
			}
			part, err := bundle.Describe(t.Context(), "root.img", bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			m.Disks = []bundle.Disk{{Part: part, Serial: "root", Format: bundle.FormatRaw}}
			text, err := m.Marshal()
			for name, b := range map[string][]byte{bundle.ManifestFile: text, "root.img": data} {
				err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), b, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
			b, err := bundle.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			guest := filepath.Join(dir, "guest")
			if err := os.Mkdir(guest, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := copyPart(t.Context(), b, part, guest, 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(guest, "root.img")); err != nil || !bytes.Equal(got, data) {
				t.Errorf("the copy differs: %v", err)
			}
			out, err := os.OpenFile(filepath.Join(guest, "probe"), os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			if err := clonePart(t.Context(), b, part, out); err != nil && name == "shared" {
				t.Errorf("blocks were not shared: %v", err)
			}
			// A write to the guest's copy leaves the bundle as it is, and a bundle that
			// was damaged is not taken.
			if err := os.WriteFile(filepath.Join(guest, "root.img"), make([]byte, 4096), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := b.CopyPart(t.Context(), part, io.Discard); err != nil {
				t.Errorf("the bundle changed with the guest's copy: %v", err)
			}
			data[1<<19] ^= 1
			if err := os.WriteFile(filepath.Join(dir, "root.img"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			var f *fault.Error
			if err := os.Remove(filepath.Join(guest, "root.img")); err != nil {
				t.Fatal(err)
			}
			if err := copyPart(t.Context(), b, part, guest, 0o600); !errors.As(err, &f) || f.Code != fault.Bundle {
				t.Errorf("a damaged part: %v", err)
			}
		})
	}
}

// reflinks mounts a file system that shares blocks, "" where none can be had.
func reflinks(t *testing.T) string {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs.xfs")
	if err != nil || os.Geteuid() != 0 {
		return ""
	}
	image, dir := filepath.Join(t.TempDir(), "xfs.img"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 512<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.xfs: %v: %s", err, out)
	}
	if exec.Command("mount", "-o", "loop", image, dir).Run() != nil {
		return ""
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}
