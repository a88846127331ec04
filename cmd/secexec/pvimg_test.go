package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/secexec/secexec/seimage"
)

// pvimg is s390-tools' own program, the oracle for the format.
func pvimg(t *testing.T) string {
	t.Helper()
	name := os.Getenv("SECEXEC_PVIMG")
	if name == "" {
		name = "pvimg"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip("pvimg is not installed")
	}
	return path
}

// pvimg authenticates the headers of ours, sealed, from a seed and retargeted,
// and finds the hosts in them that we do.
func TestPvimgReadsOurs(t *testing.T) {
	t.Parallel()
	program, dir := pvimg(t), t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	kernel := bytes.Repeat([]byte{0xa5}, 70<<10)
	copy(kernel[0x10008:], "S390EP")
	binary.BigEndian.PutUint64(kernel[0x10430:], 4096)
	for name, b := range map[string][]byte{
		"kernel": kernel, "initrd": []byte("initrd"), "key": bytes.Repeat([]byte("k"), 32), "seed": bytes.Repeat([]byte("s"), 32),
	} {
		if err := os.WriteFile(in(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secexec := func(args ...string) {
		t.Helper()
		cmd := newRoot()
		cmd.SetArgs(args)
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatalf("secexec %v: %v: %s", args, err, out.Bytes())
		}
	}
	oracle := func(fails bool, args ...string) {
		t.Helper()
		if out, err := exec.Command(program, args...).CombinedOutput(); (err != nil) != fails {
			t.Errorf("pvimg %v: %v: %s", args, err, out)
		}
	}
	secexec("emulate", "init", in("a"))
	secexec("emulate", "init", in("b"))
	create := []string{"image", "create", "-i", in("kernel"), "-r", in("initrd"), "-k", in("a/host.crt"), "--no-verify", "--hdr-key", in("key"), "-o"}
	secexec(append(create, in("plain"))...)
	secexec(append(create, in("seeded"), "--seed", in("seed"))...)
	for _, image := range []string{"plain", "seeded"} {
		oracle(false, "info", "--hdr-key", in("key"), "--format", "json", in(image))
		oracle(false, "test", "-k", in("a/host.crt"), in(image))
		oracle(true, "test", "-k", in("b/host.crt"), in(image))
		secexec("image", "retarget", in(image), "--hdr-key", in("key"), "-k", in("b/host.crt"), "--no-verify", "--remove", in("a/host.crt"))
		oracle(false, "info", "--hdr-key", in("key"), "--format", "json", in(image))
		oracle(false, "test", "-k", in("b/host.crt"), in(image))
		oracle(true, "test", "-k", in("a/host.crt"), in(image))
	}

	// And ours reads and retargets what pvimg makes; a release build without
	// its boot loader installed makes none.
	args := append([]string{"create"}, create[2:]...)
	if out, err := exec.Command(program, append(args, in("theirs"))...).CombinedOutput(); err != nil {
		t.Skipf("pvimg makes no image here: %s", out)
	}
	b, err := os.ReadFile(in("theirs"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := seimage.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil || img.Legacy || len(img.Header.Slots) != 1 {
		t.Fatalf("%+v %v", img, err)
	}
	secexec("image", "unpack", in("theirs"), "--host-private-key", in("a/host.key"), "-o", in("parts"))
	if got, err := os.ReadFile(in("parts/kernel")); err != nil || !bytes.Equal(got, kernel) {
		t.Errorf("kernel of %d bytes: %v", len(got), err)
	}
	secexec("image", "retarget", in("theirs"), "--hdr-key", in("key"), "-k", in("a/host.crt"), "-k", in("b/host.crt"), "--no-verify")
	oracle(false, "info", "--hdr-key", in("key"), "--format", "json", in("theirs"))
	secexec("image", "unpack", in("theirs"), "--host-private-key", in("b/host.key"), "-o", in("again"))
}
