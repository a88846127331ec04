package kernel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/secexec/secexec/compressed"
)

const (
	newRelease = "6.12.1-s390x"
	oldRelease = "6.1.0-9-s390x"
)

// checkKernel holds what Open found to the kernel that files describes.
func checkKernel(t *testing.T, k *Kernel, release string) {
	t.Helper()
	if k.Release != release {
		t.Errorf("the kernel is %q, want %q", k.Release, release)
	}
	b, err := io.ReadAll(k.Image)
	if err != nil || !bytes.Equal(b, image(release)) {
		t.Errorf("the image is not what was packed: %d bytes, %v", len(b), err)
	}
	module, err := fs.ReadFile(k.Modules, "kernel/fs/ext4.ko")
	if err != nil || string(module) != "ext4 of "+release {
		t.Errorf("the module is %q, %v", module, err)
	}
	if k.Config == nil {
		t.Error("the configuration was not found")
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	system := files(newRelease, "", "")
	core := func(release string) []file { // Fedora's and SUSE's layout
		var list []file
		for _, f := range files(release, withGuest, "usr/") {
			f.name = strings.Replace(f.name, "boot/vmlinuz-"+release, "usr/lib/modules/"+release+"/image", 1)
			f.name = strings.Replace(f.name, "boot/config-"+release, "usr/lib/modules/"+release+"/config", 1)
			list = append(list, f)
		}
		return list
	}
	merged := append(files(newRelease, "", "usr/"), file{name: "lib", link: "usr/lib"},
		file{name: "boot/vmlinuz", link: "vmlinuz-" + newRelease}, file{name: "boot/vmlinuz.old", link: "/nowhere"},
		file{name: "boot/vmlinuz-gone", link: "/nowhere"})
	two := append(files(newRelease, "", ""), files(oldRelease, withoutGuest, "")...)
	folder := lay(t, system...)
	inTwo := lay(t, two...)
	silent := lay(t, file{name: "kernel/vmlinuz", content: image("")})
	for name, tt := range map[string]struct {
		src     Source
		release string
	}{
		"installed":             {Source{Kernel: []string{folder}}, newRelease},
		"merged /usr, links":    {Source{Kernel: []string{lay(t, merged...)}}, newRelease},
		"image in lib/modules":  {Source{Kernel: []string{lay(t, append(core(newRelease), file{name: "lib", link: "usr/lib"})...)}}, newRelease},
		"one of two":            {Source{Kernel: []string{inTwo}, Release: oldRelease}, oldRelease},
		"image and folder":      {Source{Kernel: []string{filepath.Join(folder, "boot/vmlinuz-"+newRelease)}, Modules: []string{folder}}, newRelease},
		"modules of several":    {Source{Kernel: []string{filepath.Join(inTwo, "boot/vmlinuz-"+oldRelease)}, Modules: []string{inTwo}}, oldRelease},
		"image and lib/modules": {Source{Kernel: []string{filepath.Join(folder, "boot/vmlinuz-"+newRelease)}, Modules: []string{filepath.Join(folder, "lib/modules")}}, newRelease},
		"image and release":     {Source{Kernel: []string{filepath.Join(folder, "boot/vmlinuz-"+newRelease)}, Modules: []string{filepath.Join(folder, "lib/modules", newRelease) + "/"}}, newRelease},
		"boot and package":      {Source{Kernel: []string{filepath.Join(folder, "boot")}, Modules: []string{save(t, "m.deb", deb(t, "s390x", ".gz", system[2:]...))}}, newRelease},
		"deb":                   {Source{Kernel: []string{save(t, "k.deb", deb(t, "s390x", "", system...))}}, newRelease},
		"deb.gz":                {Source{Kernel: []string{save(t, "k.deb", deb(t, "s390x", ".gz", system...))}}, newRelease},
		"deb.xz":                {Source{Kernel: []string{save(t, "k.deb", deb(t, "s390x", ".xz", files(oldRelease, withoutGuest, "")...))}}, oldRelease},
		"two debs, merged /usr": {Source{Kernel: []string{
			save(t, "image.deb", deb(t, "s390x", ".zst", files(newRelease, "", "usr/")[:1]...)),
			save(t, "modules.deb", deb(t, "s390x", ".zst", files(newRelease, "", "usr/")[1:]...)),
		}}, newRelease},
		"rpm": {Source{Kernel: []string{save(t, "k.rpm", rpm(t, "s390x", compressed.Zstd, false, core(oldRelease)...))}}, oldRelease},
		"three rpms": {Source{Kernel: []string{
			save(t, "core.rpm", rpm(t, "s390x", compressed.XZ, false, core(newRelease)[:2]...)),
			save(t, "modules-core.rpm", rpm(t, "s390x", compressed.Gzip, false, core(newRelease)[2:3]...)),
			save(t, "modules.rpm", rpm(t, "noarch", compressed.None, false, core(newRelease)[3:]...)),
		}}, newRelease},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, err := Open(t.Context(), tt.src)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			checkKernel(t, k, tt.release)
		})
	}
	// An image that does not tell its release has that of the only modules.
	k, err := Open(t.Context(), Source{Kernel: []string{filepath.Join(silent, "kernel/vmlinuz")}, Modules: []string{folder}})
	if err != nil || k.Release != newRelease || k.Modules == nil {
		t.Fatalf("an old image and modules: %+v, %v", k, err)
	}
	k.Close()
	// No modules are no error, unless they were asked for.
	k, err = Open(t.Context(), Source{Kernel: []string{filepath.Join(folder, "boot")}})
	if err != nil || k.Modules != nil || k.Config == nil {
		t.Fatalf("a /boot alone: %+v, %v", k, err)
	}
	k.Close()
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	system := files(newRelease, "", "")
	folder := lay(t, system...)
	raw := filepath.Join(folder, "boot/vmlinuz-"+newRelease)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	two := lay(t, append(files(oldRelease, "", ""), system...)...)
	good := deb(t, "s390x", ".gz", system...)
	goodRPM := rpm(t, "s390x", compressed.Gzip, false, system...)
	outside := lay(t, file{name: "vmlinuz", content: image(newRelease)})
	pkg := func(b []byte) Source { return Source{Kernel: []string{save(t, "package", b)}} }
	patch := func(b []byte, at int, s string) []byte {
		c := bytes.Clone(b)
		copy(c[at:], s)
		return c
	}
	for name, tt := range map[string]struct {
		src  Source
		want error
		word string
	}{
		"nothing":             {Source{}, ErrNoKernel, "name an image"},
		"not there":           {Source{Kernel: []string{folder + "/none"}}, os.ErrNotExist, "none"},
		"empty folder":        {Source{Kernel: []string{t.TempDir()}}, ErrNoKernel, "no kernel in"},
		"pipe":                {Source{Kernel: []string{fifo}}, nil, "neither a file nor a folder"},
		"empty file":          {pkg(nil), ErrNotImage, "0 bytes"},
		"text":                {pkg(bytes.Repeat([]byte("text"), 20000)), ErrNotImage, "lacks"},
		"ELF":                 {pkg(append([]byte("\x7fELF"), make([]byte, 70<<10)...)), ErrNotImage, "bzImage"},
		"x86":                 {pkg(patch(make([]byte, 70<<10), 0x202, "HdrS")), ErrNotImage, "x86"},
		"two kernels":         {Source{Kernel: []string{two}}, ErrSeveral, oldRelease + ", " + newRelease},
		"no such release":     {Source{Kernel: []string{two}, Release: "7.0"}, ErrNoKernel, "not 7.0"},
		"other release":       {Source{Kernel: []string{raw}, Release: "7.0"}, ErrNoKernel, "not 7.0"},
		"two folders":         {Source{Kernel: []string{folder, two}}, nil, "name it alone"},
		"image and package":   {Source{Kernel: []string{raw, save(t, "k.deb", good)}}, ErrPackage, "neither a Debian nor an RPM"},
		"modules of another":  {Source{Kernel: []string{raw}, Modules: []string{lay(t, files(oldRelease, "", "")...)}}, ErrModules, oldRelease},
		"modules an image":    {Source{Kernel: []string{raw}, Modules: []string{raw}}, ErrModules, "is a file"},
		"no modules":          {Source{Kernel: []string{raw}, Modules: []string{t.TempDir()}}, ErrModules, "no lib/modules"},
		"silent, two":         {Source{Kernel: []string{save(t, "vmlinuz", image(""))}, Modules: []string{two}}, ErrModules, "does not tell"},
		"link out of it":      {Source{Kernel: []string{lay(t, file{name: "boot/vmlinuz-1", link: outside + "/vmlinuz"})}}, ErrNoKernel, "escapes"},
		"folder of that name": {Source{Kernel: []string{lay(t, file{name: "boot/vmlinuz-1/x"})}}, ErrNoKernel, "not a regular file"},
		"deb for another":     {pkg(deb(t, "amd64", ".gz", system...)), ErrPackage, "for amd64"},
		"deb, unknown packer": {pkg(deb(t, "s390x", ".lz4", system...)), ErrPackage, "control.tar.lz4"},
		"deb, way up":         {pkg(deb(t, "s390x", "", file{name: "../boot/vmlinuz", content: []byte("x")})), ErrPackage, "../boot"},
		"deb, twice":          {pkg(deb(t, "s390x", "", system[0], system[0])), ErrPackage, "twice"},
		"deb, file a folder":  {pkg(deb(t, "s390x", "", file{name: "boot/a", content: []byte("x")}, file{name: "boot/a/b"})), ErrPackage, "a file and a folder"},
		"deb, link to none":   {pkg(deb(t, "s390x", "", file{name: "boot/a", link: "=boot/b"})), ErrPackage, "hard link"},
		"deb, no data":        {pkg(ar(file{name: "debian-binary", content: []byte("2.0\n")})), ErrPackage, "no data.tar"},
		"deb of old":          {pkg(ar(file{name: "debian-binary", content: []byte("0.9\n")})), ErrPackage, "format 2"},
		"ar of something":     {pkg(ar(file{name: "a.o", content: []byte("\x7fELF")})), ErrPackage, "not a Debian package"},
		"ar, odd size":        {pkg(patch(good, 8+48, "-1        ")), ErrPackage, "of size"},
		"deb, cut short":      {pkg(good[:len(good)-200]), nil, "unexpected EOF"},
		"deb, modules alone":  {pkg(deb(t, "s390x", "", system[2:]...)), ErrNoKernel, "no kernel in"},
		"rpm for another":     {pkg(rpm(t, "x86_64", compressed.Gzip, false, system...)), ErrPackage, "for x86_64"},
		"rpm, wrong digest":   {pkg(rpm(t, "s390x", compressed.Gzip, true, system...)), ErrPackage, "fetch it again"},
		"rpm, unknown packer": {pkg(bytes.Replace(goodRPM, []byte("\x00gzip\x00"), []byte("\x00lzop\x00"), 1)), ErrPackage, "lzop"},
		"rpm, cut short":      {pkg(goodRPM[:len(goodRPM)-100]), nil, "unexpected EOF"},
		"rpm, head alone":     {pkg(goodRPM[:100]), io.ErrUnexpectedEOF, "signature header"},
		"rpm, no header":      {pkg(patch(goodRPM, rpmLeadSize, "x")), ErrPackage, "no RPM header"},
		"rpm, huge index":     {pkg(patch(goodRPM, rpmLeadSize+8, "\xff\xff\xff\xff")), ErrPackage, "4294967295 entries"},
		"rpm, huge store":     {pkg(patch(goodRPM, rpmLeadSize+12, "\xff\xff\xff\xff")), ErrPackage, "4294967295 bytes"},
		"rpm, value outside":  {pkg(patch(goodRPM, rpmLeadSize+rpmIntroSize+8, "\xff")), ErrPackage, "outside"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, err := Open(t.Context(), tt.src)
			if err == nil {
				k.Close()
				t.Fatalf("Open gave %+v", k)
			}
			if tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.word) {
				t.Errorf("Open: %v, want %v with %q", err, tt.want, tt.word)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, pkg(good)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: Open gave %v", err)
	}
}

// TestRealRPM reads what rpmbuild 4.18 made of a spec with a kernel's layout
// (payload w6.xzdio), with a hard link and a symbolic one.
func TestRealRPM(t *testing.T) {
	t.Parallel()
	k, err := Open(t.Context(), Source{Kernel: []string{"testdata/kernel-core.rpm"}})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if v, why := k.Guest(); k.Release != "5.14.0-1.el9.s390x" || v != Can {
		t.Errorf("the package holds %s: %v, %s", k.Release, v, why)
	}
	for _, name := range []string{"kernel/drivers/a.ko", "kernel/drivers/b.ko"} {
		if b, err := fs.ReadFile(k.Modules, name); err != nil || string(b) != "kernel/a.ko\n" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, err := fs.Stat(k.Modules, "build"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the symbolic link was kept: %v", err)
	}
}

// TestRealKernel opens the kernel that set-up fetched.
func TestRealKernel(t *testing.T) {
	t.Parallel()
	cache := os.Getenv("SECEXEC_CACHE")
	if cache == "" {
		cache = filepath.Join("..", ".cache")
	}
	dir := filepath.Join(cache, "kernel")
	release, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		t.Skipf("no kernel in %s: run make setup", cache)
	}
	k, err := Open(t.Context(), Source{Kernel: []string{filepath.Join(dir, "vmlinuz")}, Modules: []string{filepath.Join(dir, "modules")}})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if v, why := k.Guest(); k.Release != strings.TrimSpace(string(release)) || v != Can {
		t.Errorf("the kernel is %q (%v, %s), want %q", k.Release, v, why, release)
	}
}

// TestRealPackage opens Debian packages that apt-get download left in the
// cache, if there are any.
func TestRealPackage(t *testing.T) {
	t.Parallel()
	if testing.Short() || os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-long)")
	}
	found, err := filepath.Glob(filepath.Join(os.Getenv("SECEXEC_CACHE"), "kernel", "*.deb"))
	if err != nil || len(found) == 0 {
		t.Skip("no kernel package in SECEXEC_CACHE/kernel: apt-get download linux-image-s390x's kernel there")
	}
	for _, path := range found {
		k, err := Open(t.Context(), Source{Kernel: []string{path}})
		if err != nil {
			t.Error(err)
			continue
		}
		v, why := k.Guest()
		t.Logf("%s: %s: %v: %s", path, k.Release, v, why)
		if k.Modules == nil || k.Config == nil || v == Unknown {
			t.Errorf("%s: modules %q, config %q, %v", path, k.ModulesFrom, k.ConfigFrom, v)
		}
		k.Close()
	}
}
