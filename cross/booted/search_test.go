package booted

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/secexec/secexec/sealed"
)

// pieceSize is what memory is searched for: a piece of a secret. It is AES's
// block and a round key, so that a copy that was half overwritten is found, too.
const pieceSize = 16

// searchSecrets searches an emulated guest's whole memory, after its hand-over,
// for what was sealed. docs/hardening.md says the same in words:
//
//   - each half of a volume key is where the kernel's AES has it: 32 bytes once,
//     as the beginning of the encryption's key schedule, and the first 16 of them
//     once more, as the end of the decryption's. AES in C keeps little-endian
//     words, so on s390x their bytes are swapped; AES by CPACF keeps the half as
//     it is.
//   - the identity is in guestagent's private key and in the copies that
//     crypto/ed25519 makes of it in the same process: each has the public key
//     behind it.
//   - the entropy seed is nowhere.
func searchSecrets(t *testing.T, pid int, bundle string) {
	t.Helper()
	record := sealedRecord(t, bundle)
	defer record.Wipe()
	keys := [][]byte{record.Root.Key}
	for _, d := range record.Data {
		keys = append(keys, d.Key)
	}
	for _, key := range keys {
		for half := 0; half < len(key); half += 32 {
			first, second := found(t, pid, key[half:half+16]), found(t, pid, key[half+16:half+32])
			if len(second) != 1 || len(first) < 1 || len(first) > 2 || !slices.Contains(first, second[0]-pieceSize) || first[len(first)-1]-first[0] > 1<<10 {
				t.Errorf("half %d of a volume key: its first 16 bytes are at %#x, the others at %#x; wants one key schedule", half/32, first, second)
			}
		}
	}
	identity := ed25519.NewKeyFromSeed(record.IdentitySeed)
	first, second, public := found(t, pid, identity[:16]), found(t, pid, identity[16:32]), found(t, pid, identity[32:48])
	for i, at := range first {
		if len(second) != len(first) || second[i] != at+pieceSize || !slices.Contains(public, at+2*pieceSize) {
			t.Errorf("the identity's halves are at %#x and %#x, its public key at %#x; wants them in private keys only", first, second, public)
			break
		}
	}
	if len(first) == 0 || len(first) > 4 {
		t.Errorf("the identity is in memory %d times", len(first))
	}
	for i := 0; i < len(record.EntropySeed); i += pieceSize {
		if at := found(t, pid, record.EntropySeed[i:i+pieceSize]); len(at) > 0 {
			t.Errorf("the entropy seed is at %#x", at)
		}
	}
}

// found returns where in a guest's memory a piece is, as it is or with the bytes
// of its 32-bit words swapped.
func found(t *testing.T, pid int, piece []byte) (at []int64) {
	t.Helper()
	swapped := bytes.Clone(piece)
	for word := range slices.Chunk(swapped, 4) {
		slices.Reverse(word)
	}
	guestMemory(t, pid, func(start int64, data []byte) {
		for _, form := range [][]byte{piece, swapped} {
			for from := 0; ; from++ {
				i := bytes.Index(data[from:], form)
				if i < 0 {
					break
				}
				if from += i; !slices.Contains(at, start+int64(from)) { // pieces of memory overlap
					at = append(at, start+int64(from))
				}
			}
		}
	})
	slices.Sort(at)
	return at
}

// sealedRecord takes the record out of a bundle's image, by the owner's keys.
func sealedRecord(t *testing.T, bundle string) *sealed.Record {
	t.Helper()
	n := node{t: t, dir: t.TempDir()}
	parts := n.path("parts")
	if out, err := n.secexec("image", "unpack", filepath.Join(bundle, "boot.seimg"), "--hdr-key", bundle+"-secrets/header.key", "--part", "initrd", "-o", parts); err != nil {
		t.Fatalf("unpack image: %v\n%s", err, out)
	}
	initrd, err := os.ReadFile(parts)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(initrd, []byte("sealed.record\x00"))
	if at < 0 {
		t.Fatal("no sealed record in the initrd")
	}
	raw := initrd[at+bytes.Index(initrd[at:], []byte("SxSealed")):]
	record, err := sealed.Unmarshal(raw[:binary.BigEndian.Uint32(raw[10:])])
	if err != nil {
		t.Fatal(err)
	}
	return record
}
