package kernel

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/secexec/secexec/compressed"
)

// vmlinux is what a bzImage unpacks: noise around a configuration.
func vmlinux(t testing.TB, config []byte) []byte {
	noise := make([]byte, 400<<10)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(noise)
	b := append([]byte("\x7fELF"), noise...)
	if config != nil {
		b = append(b, configStart...)
		b = append(b, pack(t, compressed.Gzip, config)...)
		b = append(b, configEnd...)
	}
	return append(b, noise[:1000]...)
}

func TestGuest(t *testing.T) {
	t.Parallel()
	// Before the payload stands what looks like streams and is none.
	decoy := []byte("BZh9 \x28\xb5\x2f\xfd \x1f\x8b\x08 \xfd7zXZ\x00 " + configStart + " ")
	with := func(f compressed.Format, config []byte) []byte {
		return append(append(bytes.Clone(decoy), pack(t, f, vmlinux(t, config))...), "trailer"...)
	}
	for name, tt := range map[string]struct {
		release string
		payload []byte
		config  []byte // beside it
		want    Verdict
		word    string
	}{
		"new":                   {"6.10.0", nil, nil, Can, "since Linux 6.10"},
		"new, not asked":        {"6.12.95+deb12-s390x", nil, config(withoutGuest), Can, "since Linux 6.10"},
		"release candidate":     {"6.10.0-rc1", nil, nil, Can, ""},
		"major":                 {"7.0.0", nil, nil, Can, ""},
		"just before":           {"6.9.12", nil, nil, Unknown, "neither beside it nor in it"},
		"one digit is no ten":   {"6.1.0", nil, nil, Unknown, ""},
		"old, with":             {"5.14.0-1.el9.s390x", nil, config(withGuest), Can, "the config"},
		"old, without":          {"6.1.0-50-s390x", nil, config(withoutGuest), Cannot, "not set in the config"},
		"old, before it was":    {"4.19.0", nil, config(""), Cannot, ""},
		"old, as a module":      {"6.1.0", nil, config(guestOption + "=m"), Cannot, ""},
		"silent":                {"", nil, nil, Unknown, "neither its release nor its configuration"},
		"silent, with":          {"", nil, config(withGuest), Can, ""},
		"embedded, bare":        {"6.1.0", vmlinux(t, config(withGuest)), nil, Can, "the image"},
		"embedded, gzip":        {"6.1.0", with(compressed.Gzip, config(withGuest)), nil, Can, "the image"},
		"embedded, xz":          {"6.1.0", with(compressed.XZ, config(withoutGuest)), nil, Cannot, "not set in the image"},
		"embedded, zstd":        {"6.1.0", with(compressed.Zstd, config(withGuest)), nil, Can, "the image"},
		"embedded, of x86":      {"6.1.0", with(compressed.Gzip, []byte("CONFIG_X86=y\n"+withGuest+"\n")), nil, Unknown, ""},
		"compressed, without":   {"6.1.0", with(compressed.Gzip, nil), nil, Unknown, ""},
		"embedded, cut short":   {"6.1.0", []byte(configStart + "\x1f\x8b\x08"), nil, Unknown, ""},
		"beside before embeded": {"6.1.0", with(compressed.Gzip, config(withGuest)), config(withoutGuest), Cannot, "the config"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := image(tt.release, tt.payload...)
			k := &Kernel{Release: tt.release, Image: io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))), Config: tt.config, ConfigFrom: "the config"}
			got, why := k.Guest()
			if got != tt.want || !strings.Contains(why, tt.word) {
				t.Errorf("Guest: %v, %s, want %v with %q", got, why, tt.want, tt.word)
			}
			err := k.CheckGuest()
			if errors.Is(err, ErrNotGuest) != (tt.want == Cannot) || tt.want != Cannot && err != nil {
				t.Errorf("CheckGuest: %v", err)
			}
		})
	}
}

func TestImageRelease(t *testing.T) {
	t.Parallel()
	patch := func(at int, s string) []byte {
		b := image(newRelease)
		copy(b[at:], s)
		return b
	}
	for name, tt := range map[string]struct {
		image []byte
		want  string
	}{
		"plain":            {image(newRelease), newRelease},
		"before 5.2":       {image(""), ""},
		"past the end":     {patch(versionAt, "\xff\xff\xff\xff\xff\xff\xff\xff"), ""},
		"at the very end":  {patch(versionAt, "\x00\x00\x00\x00\x00\x01\x05\xff"), ""},
		"no number":        {patch(0x10500, "linux 6.1"), ""},
		"a path":           {patch(0x10500, "6/../../x "), ""},
		"without its end":  {image(newRelease)[:0x10504], ""},
		"steers terminals": {patch(0x10500, "6\x1b[2J "), ""},
	} {
		got, err := imageRelease(bytes.NewReader(tt.image), int64(len(tt.image)))
		if err != nil || got != tt.want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, tt.want)
		}
	}
	if _, err := imageRelease(bytes.NewReader(image("6.1")), MaxImage+1); !errors.Is(err, ErrNotImage) {
		t.Errorf("over the limit: %v", err)
	}
}

func TestLacks(t *testing.T) {
	t.Parallel()
	image := io.NewSectionReader(bytes.NewReader(nil), 0, 0)
	for config, want := range map[string]bool{"CONFIG_SWAP=y\n": false, "# CONFIG_SWAP is not set\n": true, "CONFIG_SWAPX=y\n": true} {
		k := &Kernel{Image: image, Config: []byte(config)}
		if got := k.Lacks("CONFIG_SWAP"); got != want {
			t.Errorf("%q: %v", config, got)
		}
	}
	image = io.NewSectionReader(bytes.NewReader([]byte("an image")), 0, 8)
	if (&Kernel{Image: image}).Lacks("CONFIG_SWAP") {
		t.Error("a kernel of which nothing is known lacks something")
	}
	if b, err := io.ReadAll(image); err != nil || string(b) != "an image" {
		t.Errorf("after the search the image reads as %q: %v", b, err)
	}
}
