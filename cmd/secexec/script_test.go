package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/secexec/secexec/rootdisk/oci"
	"github.com/secexec/secexec/rootdisk/oci/ocitest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"secexec": measured})
}

// measured is main, and tells in the file that $SECEXEC_TEST_PEAK names how much
// memory it had at most: what the system says of an ended process counts what
// the one that started it had.
func measured() {
	status := run()
	if path := os.Getenv("SECEXEC_TEST_PEAK"); path != "" {
		text, _ := os.ReadFile("/proc/self/status")
		_, rest, _ := strings.Cut(string(text), "VmHWM:")
		peak, _, _ := strings.Cut(rest, "kB")
		_ = os.WriteFile(path, []byte(strings.TrimSpace(peak)), 0o600)
	}
	os.Exit(status)
}

// The commands as people type them: what they print, how they end, and that a
// failure leaves nothing behind.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fakekernel": fakeKernel, "fakeguest": fakeGuest, "flip": flip, "names": names, "nosecrets": noSecrets,
			"fakeimage": func(ts *testscript.TestScript, _ bool, args []string) { fakeImage(t, ts, args) },
		},
	})
}

// fakeKernel FILE writes what passes for an s390x kernel.
func fakeKernel(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), fakeKernelBytes(), 0o644))
}

// fakeKernelBytes are 70 KiB with the magic at 0x10008, a limit of 4096 bytes
// for the command line, and the release 6.12.0.
func fakeKernelBytes() []byte {
	b := bytes.Repeat([]byte{0xa5}, 70<<10)
	copy(b[0x10008:], "S390EP")
	binary.BigEndian.PutUint64(b[0x10430:], 4096)
	binary.BigEndian.PutUint64(b[0x10428:], 0x11000)
	copy(b[0x11000:], "6.12.0 (nobody)\x00")
	return b
}

// fakeImage FILE ARCHITECTURE COMMAND... writes a docker archive with a program
// for a user of its own.
func fakeImage(t *testing.T, ts *testscript.TestScript, args []string) {
	root := filepath.Join(ts.Getenv("WORK"), "image-root")
	for name, text := range map[string]string{"bin/app": "#!/bin/true\n", "etc/passwd": "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/srv:/bin/sh\n"} {
		ts.Check(os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		ts.Check(os.WriteFile(filepath.Join(root, name), []byte(text), 0o755))
	}
	image := ocitest.Image{Architecture: args[1], Layers: [][]byte{ocitest.TarOf(t, root)}, Config: oci.Config{
		Entrypoint: args[2:], Cmd: []string{}, Env: []string{"A=1"}, User: "app", StopSignal: "SIGQUIT",
		Volumes: map[string]struct{}{"/data": {}}, Healthcheck: &oci.Healthcheck{Test: []string{"CMD", "/bin/true"}},
	}}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), ocitest.DockerArchive(t, image, "app:1"), 0o644))
}

// fakeGuest DIR writes what passes for the s390x programs of a guest.
func fakeGuest(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(writeFakeGuest(ts.MkAbs(args[0])))
}

func writeFakeGuest(dir string) error {
	elf := make([]byte, 64)
	copy(elf, "\x7fELF\x02\x02\x01")         // 64 bits, big-endian
	binary.BigEndian.PutUint16(elf[16:], 2)  // executable
	binary.BigEndian.PutUint16(elf[18:], 22) // s390
	binary.BigEndian.PutUint32(elf[20:], 1)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"guestinit", "guestagent"} {
		if err := os.WriteFile(filepath.Join(dir, name), elf, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// flip FILE [AT] flips a bit, by default in the first component of an image, at
// 0x18000.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	at := 0x18000
	if len(args) > 1 {
		at, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	b[at] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// names DIR NAME... wants exactly these names in a folder, hidden ones too.
func names(ts *testscript.TestScript, _ bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	want := map[string]bool{".tmp": true} // testscript's own
	for _, name := range args[1:] {
		want[name] = true
	}
	for _, e := range entries {
		if !want[e.Name()] {
			ts.Fatalf("%s holds %s", args[0], e.Name())
		}
		delete(want, e.Name())
	}
	delete(want, ".tmp")
	if len(want) > 0 {
		ts.Fatalf("%s lacks %v", args[0], want)
	}
}

// noSecrets SECRETS PATH... wants no key of a secrets folder in any file under
// the paths: neither its bytes nor its hex or base64 form, nor the first half
// of any of them. Negated, it wants one, which shows that it can find.
func noSecrets(ts *testscript.TestScript, neg bool, args []string) {
	forms := make(map[string][]byte)
	for _, name := range []string{"header.key", "image.key", "cck.key", "volume.key", "disk.key", "identity.key"} {
		key, err := os.ReadFile(filepath.Join(ts.MkAbs(args[0]), name))
		ts.Check(err)
		half := key[:len(key)/2/3*3] // whole base64 groups
		forms[name] = half
		forms[name+" in hex"] = []byte(hex.EncodeToString(half))
		forms[name+" in HEX"] = bytes.ToUpper([]byte(hex.EncodeToString(half)))
		forms[name+" in base64"] = []byte(base64.StdEncoding.EncodeToString(half))
		forms[name+" in base64url"] = []byte(base64.URLEncoding.EncodeToString(half))
	}
	files, found := 0, ""
	for _, arg := range args[1:] {
		ts.Check(filepath.WalkDir(ts.MkAbs(arg), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			for what, form := range forms {
				if bytes.Contains(data, form) {
					found = path + " holds " + what
				}
			}
			return nil
		}))
	}
	if files == 0 {
		ts.Fatalf("no files in %v", args[1:])
	}
	if (found != "") != neg {
		ts.Fatalf("secrets in %v: %q", args[1:], found)
	}
}
