package luks2

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/secret"
)

var (
	testKey  = secret.Bytes(append(bytes.Repeat([]byte{0x11}, 32), bytes.Repeat([]byte{0x22}, 32)...))
	testPass = secret.Bytes(bytes.Repeat([]byte{0x33}, 64))
	cheap    = KDF{Memory: 64, Time: 2, CPUs: 2}
	layout   = Layout{ID: [16]byte{1, 2, 3, 4, 5, 6, 0x47, 8, 0x89}, Label: "root", Size: 64 << 20}
)

// sevens stands in for randomness.
func sevens(n int) secret.Bytes { return bytes.Repeat([]byte{7}, n) }

func area(t testing.TB, slots ...Slot) []byte {
	t.Helper()
	b, err := encode(&layout, testKey, slots, sevens)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The header's bytes for fixed inputs: what cryptsetup accepted once.
func TestGoldenHeader(t *testing.T) {
	t.Parallel()
	b := make([]byte, PayloadOffset)
	copy(b, area(t, Slot{testPass, RandomKey}, Slot{testPass, cheap}))
	const want = "28a6c84e7cb0da52d52af231c90d79c09be674d03da2dc9873e11ef70e80fd1b"
	if got := fmt.Sprintf("%x", sha256.Sum256(b)); got != want {
		t.Errorf("got %s", got)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	b := area(t, Slot{testPass, RandomKey}, Slot{secret.Bytes("other"), cheap})
	h, err := Parse(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if h.UUID != "01020304-0506-4708-8900-000000000000" || h.Label != "root" || h.Offset != 16<<20 || h.Payload != 64<<20 ||
		h.Cipher != "aes-xts-plain64" || h.Sector != 4096 || h.Damaged != "" || len(h.Digests) != 1 {
		t.Errorf("got %+v", h)
	}
	if len(h.Keyslots) != 2 || h.Keyslots[0].KDF != "pbkdf2" || h.Keyslots[1].KDF != "argon2id" || h.Keyslots[1].Memory != 64 {
		t.Errorf("key slots %+v", h.Keyslots)
	}
	// A byte that flips in one copy: the other one serves.
	for _, at := range []int{0, 7, 9, 30, 72, 104, 170, 256, 300, 448, 500, 600, 4096, 5000, 16000} {
		for i, want := range []string{"first", "second"} {
			bad := bytes.Clone(b)
			bad[at+i*headerSize] ^= 1
			if h, err := Parse(bytes.NewReader(bad)); err != nil || h.Damaged != want {
				t.Errorf("byte %d of copy %d flipped: %v %+v", at, i, err, h)
			}
		}
		bad := bytes.Clone(b)
		bad[at] ^= 1
		bad[at+headerSize] ^= 1
		if _, err := Parse(bytes.NewReader(bad)); !errors.Is(err, ErrHeader) {
			t.Errorf("byte %d of both flipped: %v", at, err)
		}
	}
	for _, n := range []int{0, 1, 4095, 4096, 16383} {
		if _, err := Parse(bytes.NewReader(b[:n])); !errors.Is(err, ErrHeader) {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
}

func TestUnlock(t *testing.T) {
	t.Parallel()
	other := secret.Bytes("correct horse")
	b := area(t, Slot{testPass, RandomKey}, Slot{other, cheap}, Slot{secret.Bytes("i"), KDF{Type: "argon2i", Memory: 64, Time: 4, CPUs: 1}})
	h, err := Parse(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for _, pass := range []secret.Bytes{testPass, other, secret.Bytes("i")} {
		if key, err := h.Unlock(bytes.NewReader(b), pass); err != nil || !bytes.Equal(key, testKey) {
			t.Errorf("slot: %v", err)
		}
	}
	if _, err := h.Unlock(bytes.NewReader(b), secret.Bytes("wrong")); !errors.Is(err, ErrKey) {
		t.Errorf("wrong pass phrase: %v", err)
	}
	if err := h.CheckKey(testKey); err != nil {
		t.Error(err)
	}
	if err := h.CheckKey(bytes.Repeat([]byte{1}, KeySize)); !errors.Is(err, ErrKey) {
		t.Errorf("wrong volume key: %v", err)
	}
	if _, err := h.Unlock(bytes.NewReader(b[:slotsOffset+4096]), testPass); !errors.Is(err, ErrHeader) {
		t.Errorf("key slots cut off: %v", err)
	}
}

func TestRefusedOptions(t *testing.T) {
	t.Parallel()
	ok := Slot{testPass, RandomKey}
	for name, c := range map[string]struct {
		l     Layout
		slots []Slot
	}{
		"no slot":        {layout, nil},
		"nine slots":     {layout, []Slot{ok, ok, ok, ok, ok, ok, ok, ok, ok}},
		"no pass phrase": {layout, []Slot{{nil, RandomKey}}},
		"cheap pbkdf2":   {layout, []Slot{{testPass, KDF{Type: "pbkdf2", Iterations: 999}}}},
		"2 GiB":          {layout, []Slot{{testPass, KDF{Memory: 2 << 20}}}},
		"no such kdf":    {layout, []Slot{{testPass, KDF{Type: "scrypt"}}}},
		"mixed":          {layout, []Slot{{testPass, KDF{Type: "pbkdf2", Memory: 64}}}},
		"long label":     {Layout{Label: strings.Repeat("x", 48), Size: 4096}, []Slot{ok}},
		"label":          {Layout{Label: "a\n", Size: 4096}, []Slot{ok}},
		"odd size":       {Layout{Size: 4095}, []Slot{ok}},
	} {
		if err := Write(nil, c.l, testKey, c.slots...); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// cryptsetup reads and opens what Write writes: eight slots of each kind; and
// Unlock opens what cryptsetup formats.
func TestPremiseCryptsetup(t *testing.T) {
	t.Parallel()
	cryptsetup, err := exec.LookPath("cryptsetup")
	if err != nil {
		if cryptsetup, err = exec.LookPath("/usr/sbin/cryptsetup"); err != nil {
			t.Skip("cryptsetup is not installed")
		}
	}
	dir := t.TempDir()
	run := func(stdin string, args ...string) (string, error) {
		cmd := exec.Command(cryptsetup, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	slots := make([]Slot, MaxSlots)
	for i := range slots {
		slots[i] = Slot{secret.Bytes(fmt.Sprint("pass ", i)), []KDF{cheap, RandomKey}[i%2]}
	}
	ours := filepath.Join(dir, "ours")
	if err := os.WriteFile(ours, append(area(t, slots...), make([]byte, layout.Size)...), 0o600); err != nil {
		t.Fatal(err)
	}
	dump, err := run("", "luksDump", ours)
	for _, want := range []string{"Label:         \troot", "7: luks2", "PBKDF:      argon2id", "PBKDF:      pbkdf2", "sector: 4096"} {
		if err != nil || !strings.Contains(dump, want) {
			t.Errorf("luksDump: %v, no %q in\n%s", err, want, dump)
		}
	}
	for i := range slots {
		if out, err := run(fmt.Sprint("pass ", i), "open", "--test-passphrase", "--key-file", "-", ours); err != nil {
			t.Errorf("slot %d: %v: %s", i, err, out)
		}
	}
	if _, err := run("pass 8", "open", "--test-passphrase", "--key-file", "-", ours); err == nil {
		t.Error("cryptsetup takes a wrong pass phrase")
	}

	integrity := Layout{ID: layout.ID, Size: layout.Size, Integrity: true}
	tagged, err := encode(&integrity, append(bytes.Clone(testKey), testPass[:32]...), slots, sevens)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ours, append(tagged, make([]byte, layout.Size)...), 0o600); err != nil {
		t.Fatal(err)
	}
	dump, err = run("", "luksDump", ours)
	for _, want := range []string{"integrity: hmac(sha256)", "Key:        768 bits", "length: (whole device)"} {
		if err != nil || !strings.Contains(dump, want) {
			t.Errorf("luksDump: %v, no %q in\n%s", err, want, dump)
		}
	}
	for i := range slots {
		if out, err := run(fmt.Sprint("pass ", i), "open", "--test-passphrase", "--key-file", "-", ours); err != nil {
			t.Errorf("slot %d with integrity: %v: %s", i, err, out)
		}
	}

	theirs := filepath.Join(dir, "theirs")
	if err := os.WriteFile(theirs, make([]byte, 20<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run("their pass", "luksFormat", "--type", "luks2", "-q", "--key-file", "-", "--pbkdf-memory", "64",
		"--pbkdf-force-iterations", "4", "--label", "x", "--subsystem", "y", theirs); err != nil {
		t.Skipf("cryptsetup can't format a file here: %s", out)
	}
	f, err := os.Open(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Unlock(f, secret.Bytes("their pass")); err != nil || h.Label != "x" || h.Subsystem != "y" {
		t.Errorf("%v: %+v", err, h)
	}
}

func FuzzJSON(f *testing.F) {
	b := area(f, Slot{testPass, RandomKey}, Slot{testPass, cheap})
	f.Add(bytes.TrimRight(b[binarySize:headerSize], "\x00"))
	f.Add([]byte(`{"segments":{"0":{"type":"crypt","offset":"-1","size":"dynamic"}}}`))
	f.Add([]byte(`{"config":{"json_size":"12288"},"segments":{"0":{"type":"crypt","offset":"0","size":"9223372036854775807"}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		j, err := parseJSON(text, headerSize)
		if err != nil {
			if !errors.Is(err, ErrHeader) {
				t.Error(err)
			}
			return
		}
		h, err := describe(&binaryHeader{Size: headerSize}, j)
		if err != nil {
			return
		}
		if h.Offset < 0 || h.Payload < 0 || h.Offset+h.Payload < 0 || len(h.Keyslots) > maxObjects {
			t.Errorf("accepted %+v", h)
		}
		_ = h.Supported()
	})
}

// What parses re-encodes to the same bytes.
func FuzzBinary(f *testing.F) {
	b := area(f, Slot{testPass, RandomKey})
	f.Add(b[:binarySize], b[binarySize:5000])
	f.Add(b[headerSize:headerSize+binarySize], []byte{})
	f.Fuzz(func(t *testing.T, head, text []byte) {
		if len(head) != binarySize {
			return
		}
		size, err := sizeField(head)
		if err != nil || len(text) > headerSize-binarySize {
			return
		}
		full := append(bytes.Clone(head), make([]byte, int(size)-len(head))...)
		copy(full[binarySize:], text)
		clear(full[atChecksum : atChecksum+64]) // let the fuzzer past the checksum
		sum := sha256.Sum256(full)
		copy(full[atChecksum:], sum[:])
		h, area, err := parseBinary(full)
		if err != nil {
			if !errors.Is(err, ErrHeader) {
				t.Error(err)
			}
			return
		}
		if !bytes.Equal(h.encode(area), full) {
			t.Error("re-encodes to other bytes")
		}
		if _, err := Parse(io.NewSectionReader(bytes.NewReader(full), 0, int64(len(full)))); err != nil && !errors.Is(err, ErrHeader) {
			t.Error(err)
		}
	})
}
