// Package placement decides whether a node can start an SE image: whether one
// of the image's key slots is for one of the node's host keys.
//
// Firmware makes the same decision again and for good; to ask before launch
// turns a guest that dies in its boot loader into a sentence that names the hosts
// where it would run.
package placement

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Errors that callers branch on.
var (
	// ErrNoSlot says that the image has no key slot for this node.
	ErrNoSlot = errors.New("image has no key slot for this node")
	// ErrIndex says that the bundle's slot index is not that of its image.
	ErrIndex = errors.New("bundle is damaged")
)

// Slot is one entry of a bundle's slot index.
type Slot struct {
	Hash [32]byte // SHA-256 over the coordinates of the host's public key
	Name string   // whose key it is, such as the host key document's subject
}

// maxNamed bounds how many hosts an error names.
const maxNamed = 8

// maxName bounds a name's length in an error, in runes.
const maxName = 120

// Check reports whether a node with these host key hashes can start an image
// whose SE header has these slots. The index (from the bundle's manifest, not
// trusted) must name exactly the header's slots, in any order.
func Check(header [][32]byte, index []Slot, node [][32]byte) error {
	if err := compare(header, index); err != nil {
		return err
	}
	for _, hash := range header {
		if slices.Contains(node, hash) {
			return nil
		}
	}
	return fmt.Errorf("%w (%s); it can start on %s", ErrNoSlot, here(node), hosts(index))
}

// compare wants both to hold the same hashes, each equally often.
func compare(header [][32]byte, index []Slot) error {
	count := make(map[[32]byte]int)
	for _, hash := range header {
		count[hash]++
	}
	for _, s := range index {
		count[s.Hash]--
		if count[s.Hash] < 0 {
			return fmt.Errorf("%w: its index names a key slot %s for %s that the image does not have", ErrIndex, short(s.Hash), name(s))
		}
	}
	for _, hash := range header {
		if count[hash] > 0 {
			return fmt.Errorf("%w: the image has a key slot %s that its index does not name", ErrIndex, short(hash))
		}
	}
	return nil
}

func here(node [][32]byte) string {
	if len(node) == 0 {
		return "which has no host key"
	}
	var b []string
	for _, hash := range node[:min(len(node), maxNamed)] {
		b = append(b, short(hash))
	}
	if more := len(node) - maxNamed; more > 0 {
		b = append(b, fmt.Sprintf("%d more", more))
	}
	return "host key " + strings.Join(b, ", ")
}

func hosts(index []Slot) string {
	if len(index) == 0 {
		return "no host: it has no key slot at all"
	}
	var b []string
	for _, s := range index[:min(len(index), maxNamed)] {
		b = append(b, fmt.Sprintf("%s (%s)", name(s), short(s.Hash)))
	}
	if more := len(index) - maxNamed; more > 0 {
		b = append(b, fmt.Sprintf("%d more", more))
	}
	return strings.Join(b, ", ")
}

// short is enough of a hash for people to tell hosts apart.
func short(hash [32]byte) string { return hex.EncodeToString(hash[:4]) + "…" }

// name quotes a name, which is free text from outside, for one line of a log
// or terminal.
func name(s Slot) string {
	if s.Name == "" {
		return "an unnamed host"
	}
	r := []rune(s.Name)
	if len(r) > maxName {
		r = append(r[:maxName], '…')
	}
	return strconv.Quote(string(r))
}
