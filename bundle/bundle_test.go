package bundle

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sample writes a small bundle and returns its folder and manifest.
func sample(t testing.TB) (string, *Manifest) {
	t.Helper()
	dir := t.TempDir()
	image, disk := []byte("image bytes"), bytes.Repeat([]byte("disk"), 1<<10)
	for name, data := range map[string][]byte{"boot.seimg": image, "root.img": disk} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ip, err := Describe(t.Context(), "boot.seimg", bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	dp, err := Describe(t.Context(), "root.img", bytes.NewReader(disk))
	if err != nil {
		t.Fatal(err)
	}
	m := &Manifest{
		Version: 1, Name: "hello",
		Image:     Image{Part: ip, ID: strings.Repeat("0a", 16)},
		Disks:     []Disk{{Part: dp, Serial: "root", Format: "raw"}},
		KeySlots:  []KeySlot{{HostKeyHash: strings.Repeat("5e", 32), Subject: "CN=host"}},
		Identity:  strings.Repeat("1d", 32),
		MemoryMiB: 512,
	}
	text, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ManifestFile), text, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, m
}

// withBlank is a manifest with a blank disk besides.
func withBlank(m *Manifest) Manifest {
	out := *m
	out.Version = VersionBlank
	out.Disks = append(slices.Clone(m.Disks), Disk{Part: Part{File: "swap.img", Size: 1 << 30}, Serial: "swap", Format: FormatBlank})
	return out
}

// A blank disk is no part: nothing of it is read.
func TestBlankDisk(t *testing.T) {
	t.Parallel()
	dir, m := sample(t)
	blank := withBlank(m)
	text, err := blank.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ManifestFile), text, 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Verify(t.Context()); err != nil || len(b.Manifest.Parts()) != 2 || len(b.Manifest.Disks) != 2 {
		t.Errorf("%v %+v", err, b.Manifest)
	}
}

func TestOpenAndVerify(t *testing.T) {
	t.Parallel()
	dir, _ := sample(t)
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestBadBundles(t *testing.T) {
	t.Parallel()
	write := func(name, text string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	}
	cases := []struct {
		name  string
		spoil func(dir string) error
		want  error
	}{
		{"no manifest", func(d string) error { return os.Remove(filepath.Join(d, ManifestFile)) }, ErrMissing},
		{"manifest of another kind", write(ManifestFile, "\x7fELF"), ErrManifest},
		{"empty manifest", write(ManifestFile, ""), ErrManifest},
		{"huge manifest", write(ManifestFile, strings.Repeat(" ", MaxManifestSize+1)), ErrManifest},
		{"missing disk", func(d string) error { return os.Remove(filepath.Join(d, "root.img")) }, ErrMissing},
		{"truncated disk", func(d string) error { return os.Truncate(filepath.Join(d, "root.img"), 100) }, ErrDamaged},
		{"swapped image of the same size", write("boot.seimg", "image BYTES"), ErrDamaged},
		{"disk is a folder", func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, "root.img")), os.Mkdir(filepath.Join(d, "root.img"), 0o755))
		}, ErrDamaged},
		{"disk is a link out of the bundle", func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, "root.img")), os.Symlink("/etc/passwd", filepath.Join(d, "root.img")))
		}, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, _ := sample(t)
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
			b, err := Open(dir)
			if err == nil {
				defer b.Close()
				err = b.Verify(t.Context())
			}
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, wants %v", err, c.want)
			}
		})
	}
}

func TestVerifyStopsWithItsContext(t *testing.T) {
	t.Parallel()
	dir, _ := sample(t)
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Verify(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestManifestRefusals(t *testing.T) {
	t.Parallel()
	cases := map[string]func(*Manifest){
		"version":         func(m *Manifest) { m.Version = 3 },
		"version high":    func(m *Manifest) { m.Version = 2 },
		"blank, low":      func(m *Manifest) { *m = withBlank(m); m.Version = 1 },
		"blank, digest":   func(m *Manifest) { *m = withBlank(m); m.Disks[1].SHA256 = m.Image.SHA256 },
		"blank, to read":  func(m *Manifest) { *m = withBlank(m); m.Disks[1].ReadOnly = true },
		"blank, size":     func(m *Manifest) { *m = withBlank(m); m.Disks[1].Size = MaxBlank + 1 },
		"blank, file":     func(m *Manifest) { *m = withBlank(m); m.Disks[1].File = "../x" },
		"blank, to boot":  func(m *Manifest) { *m = withBlank(m); m.Disks, m.Boot = m.Disks[1:], BootDisk },
		"name":            func(m *Manifest) { m.Name = "../x" },
		"image id":        func(m *Manifest) { m.Image.ID = "zz" },
		"image file":      func(m *Manifest) { m.Image.File = "../boot" },
		"image size":      func(m *Manifest) { m.Image.Size = 0 },
		"digest":          func(m *Manifest) { m.Image.SHA256 = strings.ToUpper(m.Image.SHA256) },
		"no disks":        func(m *Manifest) { m.Disks = nil },
		"disk file twice": func(m *Manifest) { m.Disks[0].File = m.Image.File },
		"disk serial":     func(m *Manifest) { m.Disks[0].Serial = "a,b" },
		"disk format":     func(m *Manifest) { m.Disks[0].Format = "qcow2" },
		"no slots":        func(m *Manifest) { m.KeySlots = nil },
		"slot hash":       func(m *Manifest) { m.KeySlots[0].HostKeyHash = "00" },
		"identity":        func(m *Manifest) { m.Identity = "" },
		"boot":            func(m *Manifest) { m.Boot = "tape" },
		"memory":          func(m *Manifest) { m.MemoryMiB = 1 },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, m := sample(t)
			spoil(m)
			if _, err := m.Marshal(); !errors.Is(err, ErrManifest) {
				t.Errorf("Marshal: %v", err)
			}
		})
	}
	_, m := sample(t)
	text, _ := m.Marshal()
	for name, bad := range map[string]string{
		"unknown field": strings.Replace(string(text), `"version"`, `"extra": 1, "version"`, 1),
		"second value":  string(text) + "{}",
	} {
		if _, err := ParseManifest([]byte(bad)); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	_, m := sample(f)
	text, _ := m.Marshal()
	f.Add(text)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseManifest(text)
		if err != nil {
			return
		}
		once, err := m.Marshal()
		if err != nil {
			t.Fatalf("parsed but does not marshal: %v", err)
		}
		again, err := ParseManifest(once)
		if err != nil {
			t.Fatalf("own text refused: %v", err)
		}
		if twice, _ := again.Marshal(); !bytes.Equal(once, twice) {
			t.Fatal("text changes from one round to the next")
		}
	})
}
