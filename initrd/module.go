package initrd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxModule bounds a kernel module, in bytes, compressed and not. The largest
// of Debian's s390x kernel has 3 MB.
const MaxModule = 32 << 20

// Types of ELF files.
const (
	elfRel  = 1 // kernel modules
	elfExec = 2
	elfDyn  = 3
)

// isELF tells a 64-bit big-endian s390 (EM_S390, 22) ELF file of one of the
// types.
func isELF(b []byte, types ...byte) bool {
	return len(b) >= 64 && string(b[:4]) == "\x7fELF" && b[4] == 2 && b[5] == 2 &&
		b[16] == 0 && slices.Contains(types, b[17]) && b[18] == 0 && b[19] == 22
}

var errNoModinfo = errors.New("no section .modinfo")

// elfSection returns a section of a 64-bit big-endian ELF file: a part of b.
// The layout is the System V ABI's: the file header has the offset of the
// section headers at 0x28, their size at 0x3a, their number at 0x3c, the index
// of the one with their names at 0x3e; a section header has its name's offset
// at 0, the section's offset at 0x18 and size at 0x20.
func elfSection(b []byte, name string) ([]byte, error) {
	const headerSize = 64
	if len(b) < 64 {
		return nil, errors.New("an ELF file cut short")
	}
	be := binary.BigEndian
	at, size, n, names := be.Uint64(b[0x28:]), be.Uint16(b[0x3a:]), uint64(be.Uint16(b[0x3c:])), uint64(be.Uint16(b[0x3e:]))
	if size != headerSize || at > uint64(len(b)) || n*headerSize > uint64(len(b))-at || names >= n {
		return nil, errors.New("an ELF file without usable section headers")
	}
	section := func(i uint64) (nameAt uint32, content []byte, ok bool) {
		h := b[at+i*headerSize:][:headerSize]
		off, size := be.Uint64(h[0x18:]), be.Uint64(h[0x20:])
		if off > uint64(len(b)) || size > uint64(len(b))-off {
			return 0, nil, false
		}
		return be.Uint32(h), b[off : off+size], true
	}
	_, table, ok := section(names)
	if !ok {
		return nil, errors.New("an ELF file whose sections have no names")
	}
	for i := range n {
		nameAt, content, ok := section(i)
		if ok && uint64(nameAt) < uint64(len(table)) && strings.HasPrefix(string(table[nameAt:min(len(table), int(nameAt)+len(name)+1)]), name+"\x00") {
			return content, nil
		}
	}
	return nil, fmt.Errorf("no section %s", name)
}

// modinfo is what a module says of itself, in strings "KEY=VALUE" that end
// with a NUL.
type modinfo struct {
	needs     []string // modules that it needs directly
	pre, post []string // soft dependencies
	alias     []string // exact ones
}

// parseModinfo reads a module's section .modinfo. Names are normal ones.
func parseModinfo(module []byte) (m modinfo, err error) {
	section, err := elfSection(module, ".modinfo")
	if err != nil {
		return m, err
	}
	for entry := range strings.SplitSeq(string(section), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		switch key {
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name == "" {
					continue
				}
				if !plainName(name) {
					return m, fmt.Errorf("%q is no module's name", name)
				}
				m.needs = append(m.needs, normal(name))
			}
		case "softdep":
			pre, post := softWords(strings.Fields(value))
			m.pre, m.post = append(m.pre, pre...), append(m.post, post...)
		case "alias":
			if value != "" && exactAlias(value) {
				m.alias = append(m.alias, normal(value))
			}
		}
	}
	return m, nil
}

// signed is what the kernel's scripts/sign-file appends to a module, after the
// signature and struct module_signature: algorithm, hash, kind of id, length
// of signer and of key id (a byte each), 3 zero bytes, the signature's length.
const signed = "~Module signature appended~\n"

// stripSignature cuts a PKCS #7 signature, the only kind since Linux 4.3, off
// a module. A module without one is returned as it is.
func stripSignature(b []byte) ([]byte, error) {
	content, ok := strings.CutSuffix(string(b[max(0, len(b)-len(signed)):]), signed)
	if !ok || content != "" {
		return b, nil
	}
	b = b[:len(b)-len(signed)]
	const info = 12
	if len(b) < info || string(b[len(b)-info:len(b)-4]) != "\x00\x00\x02\x00\x00\x00\x00\x00" {
		return nil, errors.New("a signature of an unknown kind")
	}
	size := uint64(binary.BigEndian.Uint32(b[len(b)-4:]))
	b = b[:len(b)-info]
	if size == 0 || size > uint64(len(b)) {
		return nil, fmt.Errorf("a signature of %d bytes", size)
	}
	return b[:uint64(len(b))-size], nil
}
