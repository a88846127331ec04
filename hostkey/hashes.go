package hostkey

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
)

// ErrHashes says that text is no list of host key hashes.
var ErrHashes = errors.New("not a list of host key hashes")

// HashesFile is where Linux 6.10 and later shows the hashes of this machine's
// host keys.
const HashesFile = "/sys/firmware/uv/keys/all"

// ParseHashes parses host key hashes in the forms that people have them: a
// SHA-256 in hex first on each line, in capitals or not, with 0x before it or
// colons in it or neither, and anything behind it, as [HashesFile], secexec
// hostkey hash and sha256sum write them. Blank lines and lines that begin with #
// are passed over, and so are all zeros: the ultravisor's sign for no key. Each
// hash is given once, in order.
func ParseHashes(text []byte) ([][32]byte, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrHashes, len(text), MaxSize)
	}
	var hashes [][32]byte
	seen := map[[32]byte]bool{{}: true}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		words := bytes.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		word := bytes.TrimPrefix(bytes.TrimPrefix(words[0], []byte("0x")), []byte("0X"))
		if pairs := bytes.Split(word, []byte(":")); len(pairs) == 32 {
			word = bytes.Join(pairs, nil)
		}
		var hash [32]byte
		if len(word) != 64 {
			return nil, fmt.Errorf("%w: line %d begins with no SHA-256 in hex: %.70q", ErrHashes, n, words[0])
		}
		if _, err := hex.Decode(hash[:], word); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrHashes, n, err)
		}
		if !seen[hash] {
			seen[hash] = true
			hashes = append(hashes, hash)
		}
	}
	if n == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrHashes)
	}
	return hashes, nil
}
