package rootdisk

import (
	"bytes"
	"crypto/aes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/xts"

	"github.com/secexec/secexec/e2fs"
	"github.com/secexec/secexec/rootdisk/dmintegrity"
	"github.com/secexec/secexec/secret"
)

var taggedKey = secret.Bytes(append(bytes.Clone(testKey), bytes.Repeat([]byte{0x44}, 32)...))

// tagged makes a disk with integrity.
func tagged(t *testing.T, source string, size int64) (string, *Volume) {
	t.Helper()
	need(t, "mke2fs")
	path := filepath.Join(t.TempDir(), "tagged.img")
	v, err := Create(t.Context(), path, Options{Source: source, Size: size, Integrity: true, Key: taggedKey, Passphrase: testPass})
	if err != nil {
		t.Fatal(err)
	}
	return path, v
}

// Sectors and tags, computed another way: x/crypto's XTS, HMAC written out.
func TestTaggedSectors(t *testing.T) {
	t.Parallel()
	path, v := tagged(t, sampleTar(t), 24<<20) // two areas
	disk := must(os.ReadFile(path))
	if int64(len(disk)) != v.Offset+v.Size || v.Layout == nil || v.Layout.Provided < 24<<20 {
		t.Fatalf("disk of %d bytes: %+v", len(disk), v)
	}
	c, err := xts.NewCipher(aes.NewCipher, taggedKey[:64])
	if err != nil {
		t.Fatal(err)
	}
	device := disk[v.Offset:]
	plain := make([]byte, 0, v.Layout.Provided)
	for at := int64(0); at < v.Layout.Provided; at += 4096 {
		sector := device[v.Layout.Data(at):][:4096]
		mac := hmac.New(sha256.New, taggedKey[64:])
		_ = binary.Write(mac, binary.LittleEndian, []uint64{uint64(at / 512), uint64(at / 512), 0})
		mac.Write(sector)
		if !bytes.Equal(device[v.Layout.Tag(at):][:32], mac.Sum(nil)) {
			t.Fatalf("sector at %d has another tag", at)
		}
		b := make([]byte, 4096)
		c.Decrypt(b, sector, uint64(at/512))
		plain = append(plain, b...)
	}
	if !isZero(plain[24<<20:]) {
		t.Error("what is behind the file system does not decrypt to zeros")
	}
	file := filepath.Join(t.TempDir(), "plain.ext4")
	if err := os.WriteFile(file, plain[:24<<20], 0o600); err != nil {
		t.Fatal(err)
	}
	fsck, err := e2fs.Find("e2fsck")
	if err != nil {
		t.Skip("e2fsck is not installed")
	}
	if out, err := exec.Command(fsck, "-fn", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	// And what secexec disk open makes of it.
	opened := filepath.Join(t.TempDir(), "opened")
	f := must(os.Open(path))
	defer f.Close()
	size, err := Open(t.Context(), f, opened, testPass, nil)
	if err != nil || size != v.Layout.Provided || !bytes.Equal(must(os.ReadFile(opened)), plain) {
		t.Errorf("opened: %d bytes, %v", size, err)
	}
	if _, err := Open(t.Context(), f, filepath.Join(t.TempDir(), "none"), nil, testKey); err == nil {
		t.Error("a key of 64 bytes opens the disk")
	}
}

// A tag's bytes for fixed inputs. dm-crypt of Linux 6.12 made the same.
func TestTagVector(t *testing.T) {
	t.Parallel()
	a, err := newAEAD(taggedKey)
	if err != nil {
		t.Fatal(err)
	}
	got := hex.EncodeToString(a.tag(nil, a.newTag(), make([]byte, 4096), 1<<20))
	if want := "675978e4e2cee63382dd1d6b08906d69079598279bb6cb32dd85d082ab8435d7"; got != want {
		t.Errorf("got %s", got)
	}
}

// What somebody without the key does to a disk is noticed, whichever sector it
// hits.
func TestChangedSectors(t *testing.T) {
	t.Parallel()
	path, v := tagged(t, "", 4<<20)
	original := must(os.ReadFile(path))
	data, tag := func(at int64) int64 { return v.Offset + v.Layout.Data(at) }, func(at int64) int64 { return v.Offset + v.Layout.Tag(at) }
	swap := func(b []byte, x, y, n int64) {
		tmp := bytes.Clone(b[x : x+n])
		copy(b[x:x+n], b[y:y+n])
		copy(b[y:y+n], tmp)
	}
	for name, spoil := range map[string]func(b []byte){
		"first sector":      func(b []byte) { b[data(0)] ^= 1 },
		"last sector":       func(b []byte) { b[data(v.Layout.Provided-4096)+4095] ^= 0x80 },
		"tag":               func(b []byte) { b[tag(8192)+31] ^= 1 },
		"no tag":            func(b []byte) { clear(b[tag(0) : tag(0)+32]) },
		"swapped with tags": func(b []byte) { swap(b, data(0), data(4096), 4096); swap(b, tag(0), tag(4096), 32) },
		"swapped tags":      func(b []byte) { swap(b, tag(0), tag(4096), 32) },
		"zeros":             func(b []byte) { clear(b[data(0) : data(0)+4096]) },
		"journal entry": func(b []byte) { // for sector 0, with other data
			journal := b[v.Offset+4096:]
			clear(journal[:8])
			for u := range 264 {
				binary.LittleEndian.PutUint64(journal[(u+1)*512-8:], 0x2222222222222222^uint64(u))
			}
		},
	} {
		b := bytes.Clone(original)
		spoil(b)
		spoiled := filepath.Join(t.TempDir(), "spoiled")
		if err := os.WriteFile(spoiled, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f := must(os.Open(spoiled))
		out := filepath.Join(t.TempDir(), "out")
		if _, err := Open(t.Context(), f, out, testPass, nil); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: an output is left: %v", name, err)
		}
		f.Close()
	}
}

func BenchmarkEncryptTagged(b *testing.B) { benchmarkEncrypt(b, true) }
func BenchmarkEncrypt(b *testing.B)       { benchmarkEncrypt(b, false) }

type nowhere struct{}

func (nowhere) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

func benchmarkEncrypt(b *testing.B, withTags bool) {
	const size = 64 << 20
	plain := bytes.NewReader(make([]byte, size))
	l, err := dmintegrity.Plan(size)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		if withTags {
			err = encryptTagged(b.Context(), nowhere{}, 0, plain, size, taggedKey, &l)
		} else {
			err = encrypt(b.Context(), nowhere{}, 0, plain, size, testKey, func(int64, int64) bool { return true })
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
