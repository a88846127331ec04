package verity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"testing"

	"github.com/secexec/secexec/e2fs"
)

// memory is a storage of a fixed size.
type memory []byte

func (m memory) ReadAt(b []byte, at int64) (int, error) {
	if at > int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(b, m[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (m memory) WriteAt(b []byte, at int64) (int, error) {
	if at+int64(len(b)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[at:], b), nil
}

// pattern is data of which no two blocks are the same.
type pattern struct{}

func (pattern) ReadAt(b []byte, at int64) (int, error) {
	for i := range b {
		b[i] = byte((at + int64(i)) >> 12 * 31 >> (i % 4 * 8))
	}
	return len(b), nil
}

func build(t testing.TB, blocks int64, data io.ReaderAt) (*Tree, memory) {
	t.Helper()
	tree := &Tree{DataSize: blocks * BlockSize, UUID: [16]byte{0: 0xaa, 15: 0xbb}}
	for i := range tree.Salt {
		tree.Salt[i] = byte(i)
	}
	to := make(memory, Size(tree.DataSize))
	if err := tree.Write(context.Background(), to, data); err != nil {
		t.Fatal(err)
	}
	return tree, to
}

// vectors are trees over pattern with the salt 00 01 02 ... 1f: blocks of data,
// root hash, and SHA-256 of the tree without its superblock. veritysetup made
// them: TestPremise makes them again.
var vectors = []struct {
	blocks     int64
	root, tree string
}{
	{1, "4ce3ecf32c133bf6321901b6092219474b6ac91a19d0304621d629e6bb9987dc", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
	{2, "f56e640ac48e615212370b093f7f7da1fc3da4ed026c61dce3696c7ccb0efdd9", "13cace94cec605ff5bcbaef23f2672cb8af89e68070190d2576e485b5b3d313c"},
	{127, "26b13ed1fab3d2093d8a606f1ff729144e88ee243f961d0412eb8c9c8f6fa9ff", "dfcf172cf45bdd4a1552f1d038cf1200a7ba79921f96aa2c7710b58f89fc3738"},
	{128, "c4d22d1eb26bf3c7ee14e1d777e830cc2fe91920d5ecf42dbb10ce4eb0b72b33", "4a3121c2b2ef5780df4aa75450405e132852a08a15742e4e8ca92c6e09c4d163"},
	{129, "c8f9911309ecb4c2cf217f37f606c63915986e92a50cbb709e20f6dd65783673", "7a25df1d9a34fc14043e89e0153d158d8cd7b89fc45a6564ad554dc69cc74d62"},
	{16384, "87533fe025dfc9390e0d9ea5bf0ded134708c46b52419e4363a0b8dec3bba867", "93aaf2523635f2d22b1a27f0a443ed6012a6b6de32dd64c461cc4c716f896359"},
	{16385, "131c39a069ac18cec19b30342a073028f54a7424101e745fcbd7a24f64e68f6d", "56ec5abfa9f3e0c8db92f95a5990e65a16a9fc94b48d9963710679796f2385d6"},
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors {
		if v.blocks > 1000 && runtime.GOARCH == "s390x" {
			continue // a minute under emulation, and the levels are those of 129 blocks
		}
		tree, to := build(t, v.blocks, pattern{})
		sum := sha256.Sum256(to[BlockSize:])
		if got := hex.EncodeToString(tree.RootHash[:]); got != v.root || hex.EncodeToString(sum[:]) != v.tree {
			t.Errorf("%d blocks: root hash %s, tree %x", v.blocks, got, sum)
		}
	}
}

// veritysetup makes the same tree, and finds ours sound by its superblock.
func TestPremise(t *testing.T) {
	t.Parallel()
	program, err := e2fs.Find("veritysetup")
	if err != nil {
		t.Skip("no veritysetup: Debian package cryptsetup-bin")
	}
	for _, v := range vectors {
		if v.blocks > 1000 && os.Getenv("SECEXEC_LONG") == "" {
			continue
		}
		dir := t.TempDir()
		data, theirs, ours := filepath.Join(dir, "data"), filepath.Join(dir, "theirs"), filepath.Join(dir, "ours")
		plain := make([]byte, v.blocks*BlockSize)
		_, _ = pattern{}.ReadAt(plain, 0)
		tree, to := build(t, v.blocks, bytes.NewReader(plain))
		if err := errors.Join(os.WriteFile(data, plain, 0o600), os.WriteFile(theirs, nil, 0o600), os.WriteFile(ours, append(plain, to...), 0o600)); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(program, "format", "--no-superblock", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096",
			"--salt="+hex.EncodeToString(tree.Salt[:]), data, theirs).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		root := regexp.MustCompile(`Root hash:\s+([0-9a-f]{64})`).FindSubmatch(out)
		made, err := os.ReadFile(theirs)
		if err != nil || root == nil || string(root[1]) != v.root || !bytes.Equal(made, to[BlockSize:]) {
			sum := sha256.Sum256(made)
			t.Errorf("%d blocks: veritysetup's root hash %s, tree %x, %v", v.blocks, root, sum, err)
		}
		if out, err := exec.Command(program, "verify", ours, ours, v.root, "--hash-offset="+strconv.FormatInt(tree.DataSize, 10)).CombinedOutput(); err != nil {
			t.Errorf("%d blocks: verify: %v\n%s", v.blocks, err, out)
		}
		out, err = exec.Command(program, "dump", ours, "--hash-offset="+strconv.FormatInt(tree.DataSize, 10)).CombinedOutput()
		if want := "aa000000-0000-0000-0000-0000000000bb"; err != nil || !bytes.Contains(out, []byte(want)) {
			t.Errorf("%d blocks: dump has no UUID %s: %v\n%s", v.blocks, want, err, out)
		}
	}
}

// walk checks a block as dm-verity does, from the root hash down.
func walk(t *Tree, to memory, data []byte, block int64) bool {
	all, _ := levels(t.DataSize)
	want := t.RootHash
	for i := len(all) - 1; i >= 0; i-- {
		n := block
		for range i + 1 {
			n /= perBlock
		}
		hashes := to[BlockSize+all[i].at+n*BlockSize:][:BlockSize]
		if [HashSize]byte(t.digest(nil, hashes)) != want {
			return false
		}
		n = block
		for range i {
			n /= perBlock
		}
		want = [HashSize]byte(hashes[n%perBlock*HashSize:])
	}
	return [HashSize]byte(t.digest(nil, data[block*BlockSize:][:BlockSize])) == want
}

// A reader that walks from the root hash down finds each block sound, and none
// whose data, or whose way from the root, was changed.
func FuzzTree(f *testing.F) {
	f.Add([]byte("x"), uint8(0), uint32(0))
	f.Add([]byte("seed"), uint8(129), uint32(5000))
	f.Add([]byte(""), uint8(255), uint32(1<<20))
	f.Fuzz(func(t *testing.T, seed []byte, more uint8, flip uint32) {
		blocks := int64(more) + 1
		data := make([]byte, blocks*BlockSize)
		for at := 0; at < len(data) && len(seed) > 0; at += len(seed) + at/BlockSize {
			copy(data[at:], seed)
		}
		tree, to := build(t, blocks, memory(data))
		for n := range blocks {
			if !walk(tree, to, data, n) {
				t.Fatalf("block %d of %d is not sound", n, blocks)
			}
		}
		at := int64(flip) % int64(len(data))
		data[at] ^= 1
		if walk(tree, to, data, at/BlockSize) {
			t.Fatalf("byte %d of %d blocks was changed unnoticed", at, blocks)
		}
		data[at] ^= 1
		if len(to) > BlockSize {
			to[BlockSize+int64(flip)%(int64(len(to))-BlockSize)] ^= 1
			sound := 0
			for n := range blocks {
				if walk(tree, to, data, n) {
					sound++
				}
			}
			if sound == int(blocks) {
				t.Fatal("a byte of the tree was changed unnoticed")
			}
		}
	})
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, -BlockSize, 100, BlockSize + 1, MaxData + BlockSize} {
		if err := (&Tree{DataSize: size}).Write(t.Context(), make(memory, BlockSize), pattern{}); !errors.Is(err, ErrSize) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	tree := &Tree{DataSize: 300 * BlockSize}
	if err := tree.Write(t.Context(), make(memory, Size(tree.DataSize)), make(memory, 200*BlockSize)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("data that ends early: %v", err)
	}
	if err := tree.Write(t.Context(), make(memory, 2*BlockSize), pattern{}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("storage that is full: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tree.Write(ctx, make(memory, Size(tree.DataSize)), pattern{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func BenchmarkWrite(b *testing.B) {
	data := make(memory, 64<<20)
	to := make(memory, Size(int64(len(data))))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := (&Tree{DataSize: int64(len(data))}).Write(b.Context(), to, data); err != nil {
			b.Fatal(err)
		}
	}
}
