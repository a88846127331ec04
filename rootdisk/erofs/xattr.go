package erofs

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

const xattrHeader = 12 // struct erofs_xattr_ibody_header

// prefixes are what names begin with, by number.
var prefixes = []struct {
	number byte
	text   string
}{
	{2, "system.posix_acl_access"}, {3, "system.posix_acl_default"}, {1, "user."}, {4, "trusted."}, {6, "security."},
}

// xattrs are extended attributes as they follow an inode.
func xattrs(list []Xattr) ([]byte, error) {
	if len(list) == 0 {
		return nil, nil
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	out := make([]byte, xattrHeader)
	for _, x := range list {
		number, name := byte(0), ""
		for _, p := range prefixes {
			if rest, ok := strings.CutPrefix(x.Name, p.text); ok && number == 0 {
				number, name = p.number, rest
			}
		}
		if number == 0 || (name == "") != (number == 2 || number == 3) || len(name) > 255 || len(x.Value) > 1<<16-1 {
			return nil, fmt.Errorf("%w: extended attribute %.80q of %d bytes", ErrNode, x.Name, len(x.Value))
		}
		out = append(out, byte(len(name)), number)
		out = binary.LittleEndian.AppendUint16(out, uint16(len(x.Value)))
		out = append(append(out, name...), x.Value...)
		out = append(out, make([]byte, -len(out)&3)...)
	}
	if len(out) > xattrHeader+4*(1<<16-2) {
		return nil, fmt.Errorf("%w: %d bytes of extended attributes", ErrNode, len(out))
	}
	return out, nil
}
