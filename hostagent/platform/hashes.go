package platform

import (
	"bytes"
	"encoding/hex"
	"fmt"
)

// Bounds of /sys/firmware/uv/keys/all: the ultravisor's query answers with 15
// hashes today; a page of sysfs has room for 63.
const (
	maxKeysFile = 4096
	hashLine    = 2*32 + 1
)

// parseKeyHashes reads the form of /sys/firmware/uv/keys/all (Linux 6.10): a
// line of 64 lower-case hex digits per place, the first for the host key in use,
// the second for the backup host key, the others reserved; a place without a key
// is all zero digits. It returns the hashes that are there, in order, each once.
func parseKeyHashes(text []byte) ([][32]byte, error) {
	if len(text) > maxKeysFile {
		return nil, fmt.Errorf("read host key hashes: %d bytes, at most %d", len(text), maxKeysFile)
	}
	if len(text)%hashLine != 0 {
		return nil, fmt.Errorf("read host key hashes: %d bytes are not whole lines of 64 hex digits", len(text))
	}
	var hashes [][32]byte
	seen := map[[32]byte]bool{{}: true}
	for n := 1; len(text) > 0; n++ {
		line, rest := text[:hashLine-1], text[hashLine:]
		var hash [32]byte
		if _, err := hex.Decode(hash[:], line); err != nil || text[hashLine-1] != '\n' || !bytes.Equal(line, bytes.ToLower(line)) {
			return nil, fmt.Errorf("read host key hashes: line %d is not 64 lower-case hex digits", n)
		}
		if !seen[hash] {
			seen[hash] = true
			hashes = append(hashes, hash)
		}
		text = rest
	}
	return hashes, nil
}
