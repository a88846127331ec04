package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/hostkey"
)

// Command lines after pvimg, or secexec image, in which both must end with the
// same exit status. USUAL makes an image; IMAGE is one for host a with the
// header key of file 32; HASHES lists a's hash.
var sameVerdicts = map[string][]string{
	"create": {
		"USUAL", "USUAL -p cmdline", "USUAL extra", "USUAL --overwrite", "USUAL -k b.crt", "-i kernel -k a.crt,b.crt --no-verify -o OUT", "USUAL b.crt", "USUAL -i kernel",
		"-i kernel -k a.crt -o OUT", "-k a.crt --no-verify -o OUT", "-i kernel --no-verify -o OUT", "-i kernel -k a.crt --no-verify",
		"-ikernel -ka.crt -oOUT --no-verify", "--image=kernel --host-key-document=a.crt --output=OUT --no-verify",
		"-i kernel -k a.crt --no-verify -o 32", "-i kernel -k a.crt --no-verify -o no/such",
		"-i none -k a.crt --no-verify -o OUT", "-i . -k a.crt --no-verify -o OUT", "-i empty -k a.crt --no-verify -o OUT", "-i 64 -k a.crt --no-verify -o OUT",
		"-i elf -k a.crt --no-verify -o OUT", "-i elf -k a.crt --no-verify -o OUT --no-component-check", "-i kernel -k 64 --no-verify -o OUT",
		"USUAL -p kernel", "USUAL -p empty", "USUAL -C a.crt", "USUAL --crl 64", "USUAL --offline", "USUAL --root-ca 64",
		"USUAL --cck 32", "USUAL --comm-key 32", "USUAL --cck 64", "USUAL --cck none", "USUAL --cck=", "USUAL --cck",
		"USUAL --hdr-key 32", "USUAL --x-header-key 32", "USUAL --hdr-key 64", "USUAL --hdr-key=", "USUAL --image-key 64", "USUAL --x-comp-key 64", "USUAL --image-key 32",
		"USUAL --enable-dump", "USUAL --enable-dump --cck 32", "USUAL --enable-dump --enable-cck-update", "USUAL --disable-dump", "USUAL --enable-dump --disable-dump --cck 32",
		"USUAL --enable-cck-extension-secret", "USUAL --enable-cck-extension-secret --cck 32", "USUAL --enable-cck-extension-secret --enable-cck-update --cck 32",
		"USUAL --enable-cck-update", "USUAL --enable-cck-update --disable-cck-update", "USUAL --enable-cck-update --cck 32",
		"USUAL --enable-pckmo", "USUAL --disable-pckmo", "USUAL --enable-pckmo --disable-pckmo",
		"USUAL --enable-pckmo-hmac", "USUAL --disable-pckmo-hmac", "USUAL --enable-pckmo-hmac --disable-pckmo-hmac",
		"USUAL --enable-backup-keys", "USUAL --disable-backup-keys", "USUAL --enable-backup-keys --disable-backup-keys",
		"USUAL --enable-image-encryption", "USUAL --disable-image-encryption", "USUAL --enable-image-encryption --disable-image-encryption", "USUAL --disable-image-encryption --image-key 64",
		"USUAL --x-pcf 0xe0", "USUAL --x-pcf e0", "USUAL --x-scf 0", "USUAL --x-pcf 0xe0 --enable-pckmo", "USUAL --x-pcf 0 --x-pcf 0",
		"USUAL -v", "USUAL -vv", "USUAL -q", "USUAL -q -v", "USUAL -V", "USUAL --version", "USUAL --help", "USUAL --no-component-check", "USUAL --no-such",
	},
	"info": {
		"IMAGE", "", "IMAGE IMAGE", "none", ".", "empty", "kernel", "--format text IMAGE", "--format text:full IMAGE", "--format json IMAGE", "--format json:pretty IMAGE",
		"--format json:minify IMAGE", "--format xml IMAGE", "--format text --format json IMAGE", "--hdr-key 32 IMAGE", "--key 32 IMAGE", "--hdr-key 64 IMAGE", "--hdr-key other IMAGE",
		"--show-secrets IMAGE", "--show-secrets --hdr-key 32 IMAGE", "--print-schema json", "--print-schema=json", "--print-schema xml", "--print-schema", "--print-schema json IMAGE",
		"--print-schema json --format text", "--print-schema json --hdr-key 32", "-v IMAGE", "-q IMAGE", "-V IMAGE", "-q -v IMAGE", "--help", "--version",
	},
	"test": {
		"-k a.crt IMAGE", "-k b.crt IMAGE", "-k a.crt -k b.crt IMAGE", "-k b.crt,a.crt IMAGE", "--host-key-document a.crt IMAGE", "-k a.crt", "IMAGE", "-k a.crt IMAGE IMAGE",
		"-k a.crt kernel", "-k a.crt none", "-k 64 IMAGE", "-k none IMAGE", "--key-hashes=HASHES IMAGE", "--key-hashes HASHES IMAGE", "--key-hashes=none IMAGE", "--key-hashes=empty IMAGE",
		"--key-hashes=zeros IMAGE", "--key-hashes=HASHES --key-hashes=HASHES IMAGE", "-k a.crt --key-hashes=HASHES IMAGE", "-v -k a.crt IMAGE", "-q -k b.crt IMAGE", "-V -k a.crt IMAGE", "--help",
	},
}

// What pvimg takes and we don't, or the other way round; docs/from-pvimg.md
// gives the reasons.
var otherVerdicts = map[string]map[string]int{ // our exit status
	"create": {
		"USUAL -k a.crt": 1, "-i kernel -r empty -k a.crt --no-verify -o OUT": 1, "-i empty -k a.crt --no-verify -o OUT --no-component-check": 1,
		"USUAL --x-pcf 1": 2, "USUAL --x-pcf flags": 2, "USUAL --x-scf 1": 2, "USUAL --x-psw 0": 1, "USUAL --x-bootloader-directory .": 2,
	},
	"info": {"--print-schema text": 2, "one-slot-less": 1},
	"test": {"--key-hashes=short IMAGE": 0},
}

// Every option and combination, side by side with pvimg itself.
func TestVerdictsBesidePvimg(t *testing.T) {
	t.Parallel()
	program, dir := pvimg(t), t.TempDir()
	run := func(args ...string) int {
		t.Helper()
		cmd := newRoot()
		cmd.SetArgs(args)
		cmd.SetIn(strings.NewReader(""))
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		return statusOf(cmd.ExecuteContext(t.Context()))
	}
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kernel := bytes.Repeat([]byte{0xa5}, 70<<10)
	copy(kernel[0x10008:], "S390EP")
	binary.BigEndian.PutUint64(kernel[0x10430:], 4096)
	write("kernel", kernel)
	write("elf", append([]byte("\x7fELF"), make([]byte, 70<<10)...))
	for name, n := range map[string]int{"empty": 0, "32": 32, "64": 64} {
		write(name, bytes.Repeat([]byte("k"), n))
	}
	write("other", bytes.Repeat([]byte("o"), 32))
	write("cmdline", []byte("root=/dev/vda\n"))
	for _, host := range []string{"a", "b"} {
		if run("emulate", "init", filepath.Join(dir, host)) != 0 {
			t.Fatal("no emulated host")
		}
		b, err := os.ReadFile(filepath.Join(dir, host, "host.crt"))
		if err != nil {
			t.Fatal(err)
		}
		write(host+".crt", b)
		if host == "a" {
			doc, _, err := hostkey.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			hash, zeros := fmt.Sprintf("%x", doc.Hash()), strings.Repeat("0", 64)+"\n"
			write("hashes", []byte(hash+"\n"+strings.Repeat(zeros, 14)))
			write("short", []byte(hash+"\n"))
			write("zeros", []byte(strings.Repeat(zeros, 15)))
		}
	}
	files := make(map[string]bool)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		files[entry.Name()] = true
	}
	image := filepath.Join(dir, "image")
	if run("image", "create", "-i", dir+"/kernel", "-k", dir+"/a.crt", "--no-verify", "--hdr-key", dir+"/32", "-o", image) != 0 {
		t.Fatal("no image")
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("IBMSecEx"))
	b[at+39] = 0 // no key slot
	write("one-slot-less", b)
	files["one-slot-less"] = true

	// words puts paths in place of names; -kNAME, --key=NAME and lists too.
	words := func(line string) []string {
		line = strings.NewReplacer("USUAL", "-i kernel -k a.crt --no-verify -o OUT", "IMAGE", "image", "HASHES", "hashes").Replace(line)
		out := strings.Fields(line)
		for i, word := range out {
			head, names := "", word
			switch {
			case strings.HasPrefix(word, "--"):
				name, value, ok := strings.Cut(word, "=")
				if !ok {
					continue
				}
				head, names = name+"=", value
			case strings.HasPrefix(word, "-") && len(word) > 2:
				head, names = word[:2], word[2:]
			}
			list := strings.Split(names, ",")
			for j, name := range list {
				if files[name] || name == "image" || name == "OUT" {
					list[j] = filepath.Join(dir, name)
				}
			}
			out[i] = head + strings.Join(list, ",")
		}
		return out
	}
	out := filepath.Join(dir, "OUT")
	both := func(command, line string) (theirs, ours int) {
		t.Helper()
		args := words(line)
		_ = os.Remove(out)
		err := exec.Command(program, append([]string{command}, args...)...).Run()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			theirs = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(out)
		ours = run(append([]string{"image", command}, args...)...)
		if _, err := os.Stat(out); err == nil && ours != 0 {
			t.Errorf("%s %s failed and left an image", command, line)
		}
		return theirs, ours
	}
	if theirs, _ := both("create", "USUAL"); theirs != 0 {
		t.Skip("pvimg makes no image here: its boot loader is not installed")
	}
	for command, lines := range sameVerdicts {
		for _, line := range lines {
			if theirs, ours := both(command, line); theirs != ours {
				t.Errorf("%s %s: pvimg ends with %d, we with %d", command, line, theirs, ours)
			}
		}
		for line, want := range otherVerdicts[command] {
			theirs, ours := both(command, line)
			if ours != want {
				t.Errorf("%s %s: %d, wants %d", command, line, ours, want)
			}
			if theirs == ours {
				t.Errorf("%s %s: pvimg ends with %d too: it is no difference any more", command, line, theirs)
			}
		}
	}
}
