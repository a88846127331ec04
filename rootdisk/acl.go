package rootdisk

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Extended attributes that hold access control lists.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// parseACL turns a list's text, as tar stores it (acl(5), long form), into the
// value of the extended attribute (linux/posix_acl_xattr.h, little-endian). An
// access list that says no more than the mode gives nil. Users and groups must be
// numbers, or have one in star's fourth field: names mean nothing here.
func parseACL(name, text string) ([]byte, error) {
	type ace struct {
		tag, perm uint16
		id        uint32
	}
	const nobody = 1<<32 - 1
	var list []ace
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == ',' }) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) == 1 && f[0] == "" {
			continue
		}
		if len(f) < 3 || len(f) > 4 {
			return nil, fmt.Errorf("%w: access control list %.80q", ErrSource, line)
		}
		a := ace{id: nobody}
		switch kind, who := f[0], f[1]; {
		case (kind == "user" || kind == "u") && who == "":
			a.tag = 1
		case kind == "user" || kind == "u":
			a.tag = 2
		case (kind == "group" || kind == "g") && who == "":
			a.tag = 4
		case kind == "group" || kind == "g":
			a.tag = 8
		case (kind == "mask" || kind == "m") && who == "":
			a.tag = 16
		case (kind == "other" || kind == "o") && who == "":
			a.tag = 32
		default:
			return nil, fmt.Errorf("%w: access control list %.80q", ErrSource, line)
		}
		if a.tag == 2 || a.tag == 8 {
			n, err := strconv.ParseUint(f[len(f)-1], 10, 32)
			if len(f) == 3 || err != nil {
				n, err = strconv.ParseUint(f[1], 10, 32)
			}
			if err != nil || n == nobody {
				return nil, fmt.Errorf("%w: access control list names %.40q: make the archive with --numeric-owner", ErrSource, f[1])
			}
			a.id = uint32(n)
		}
		for _, c := range f[2] {
			bit, ok := map[rune]uint16{'r': 4, 'w': 2, 'x': 1, '-': 0}[c]
			if !ok {
				return nil, fmt.Errorf("%w: access control list %.80q", ErrSource, line)
			}
			a.perm |= bit
		}
		list = append(list, a)
	}
	if name == aclAccess && len(list) == 3 && !slices.ContainsFunc(list, func(a ace) bool { return a.tag == 2 || a.tag == 8 || a.tag == 16 }) {
		return nil, nil
	}
	slices.SortFunc(list, func(a, b ace) int { return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id)) })
	le := binary.LittleEndian
	out := le.AppendUint32(nil, 2) // version
	for _, a := range list {
		out = le.AppendUint32(le.AppendUint16(le.AppendUint16(out, a.tag), a.perm), a.id)
	}
	return out, nil
}
