package bootdisk

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/secexec/secexec/secret"
)

// GUID is a partition's or disk's unique number, in the order of its text
// (RFC 9562). A GUID partition table stores the first three groups
// little-endian instead.
type GUID [16]byte

// Types of partitions (systemd's Discoverable Partitions Specification).
var (
	TypeBoot = mustGUID("bc13c2ff-59e6-4262-a352-b275fd6f7172") // boot loader's files, in any file system
	TypeLUKS = mustGUID("ca7d7ccb-63ed-4c53-861c-1742536059cc") // found by number only: nothing mounts it by itself
)

// ErrGUID says that a text is no GUID.
var ErrGUID = errors.New("invalid GUID")

// NewGUID returns a random GUID, version 4.
func NewGUID() GUID {
	g := GUID(secret.Random(16))
	g[6] = g[6]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}

// ParseGUID parses 8-4-4-4-12 hex digits of any case.
func ParseGUID(s string) (g GUID, err error) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("%w: %.40q is not 8-4-4-4-12 hex digits", ErrGUID, s)
	}
	if n, err := hex.Decode(g[:], []byte(strings.ReplaceAll(s, "-", ""))); err != nil || n != len(g) {
		return GUID{}, fmt.Errorf("%w: %.40q is not 8-4-4-4-12 hex digits", ErrGUID, s)
	}
	return g, nil
}

// String returns the GUID's text in lower case, as Linux shows a PARTUUID.
func (g GUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[:4], g[4:6], g[6:8], g[8:10], g[10:])
}

// swap goes from the order of the text to that of a partition table and back.
func (g GUID) swap() GUID {
	g[0], g[1], g[2], g[3] = g[3], g[2], g[1], g[0]
	g[4], g[5] = g[5], g[4]
	g[6], g[7] = g[7], g[6]
	return g
}

func mustGUID(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}
