package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// DumpStatus is how far a dump of guest memory is.
type DumpStatus struct {
	State     string `json:"status"` // none, active, completed, failed
	Completed uint64 `json:"completed"`
	Total     uint64 `json:"total"` // bytes of guest memory, 0 at first
}

// dumpName is what the dump's file is called on its way to QEMU.
const dumpName = "dump"

// Dump lets QEMU write a dump of the guest (ELF, one pass from start to end) into
// an open file, such as a pipe, and returns once it has begun. QEMU has its own
// descriptor of the file then and closes it at the end; DumpStatus tells how
// that was. The guest stands still meanwhile. The file must not be non-blocking.
func (m *Monitor) Dump(ctx context.Context, f *os.File) error {
	if err := m.execute(ctx, "getfd", map[string]string{"fdname": dumpName}, nil, f); err != nil {
		return err
	}
	err := m.Execute(ctx, "dump-guest-memory", map[string]any{"paging": false, "protocol": "fd:" + dumpName, "detach": true}, nil)
	var refused *CommandError
	if errors.As(err, &refused) { // or the file stays open until QEMU ends
		_ = m.Execute(ctx, "closefd", map[string]string{"fdname": dumpName}, nil)
	}
	return err
}

// DumpStatus asks how far the last dump is.
func (m *Monitor) DumpStatus(ctx context.Context) (DumpStatus, error) {
	var s DumpStatus
	err := m.Execute(ctx, "query-dump", nil, &s)
	s.State = clip(s.State)
	return s, err
}

// ErrPlainDump says that a dump is none of a protected guest.
var ErrPlainDump = errors.New("no protected dump")

// Bounds of a dump's section table: QEMU writes four sections.
const (
	maxSections    = 64
	maxSectionName = 64 << 10
)

// CheckDump wants an ELF dump of a protected guest: one with the sections that
// the ultravisor fills, pv_mem_meta and pv_compl, whole and inside the file. QEMU
// leaves them out, and goes on, where the ultravisor refuses the dump.
func CheckDump(r io.ReaderAt, size int64) error {
	be := binary.BigEndian
	h := make([]byte, 64)
	if _, err := r.ReadAt(h, 0); err != nil {
		return fmt.Errorf("%w: it ends in its header", ErrPlainDump)
	}
	// ELF64, big-endian, a core file, for s390.
	if string(h[:6]) != "\x7fELF\x02\x02" || be.Uint16(h[16:]) != 4 || be.Uint16(h[18:]) != 22 {
		return fmt.Errorf("%w: not an s390x core file", ErrPlainDump)
	}
	at, n, names := be.Uint64(h[40:]), int(be.Uint16(h[60:])), int(be.Uint16(h[62:]))
	if n == 0 {
		return fmt.Errorf("%w: it has no sections: the ultravisor refused the dump", ErrPlainDump)
	}
	if be.Uint16(h[58:]) != 64 || n > maxSections || names >= n || at > uint64(size) || at+uint64(n)*64 > uint64(size) {
		return fmt.Errorf("%w: its section table is damaged", ErrPlainDump)
	}
	table := make([]byte, n*64)
	if _, err := r.ReadAt(table, int64(at)); err != nil {
		return fmt.Errorf("read dump: %w", err)
	}
	section := func(i int) (name uint32, offset, length uint64, whole bool) {
		s := table[i*64:]
		offset, length = be.Uint64(s[24:]), be.Uint64(s[32:])
		return be.Uint32(s), offset, length, offset <= uint64(size) && length <= uint64(size)-offset
	}
	_, offset, length, whole := section(names)
	if !whole || length > maxSectionName {
		return fmt.Errorf("%w: its section names are damaged", ErrPlainDump)
	}
	strings := make([]byte, length)
	if _, err := r.ReadAt(strings, int64(offset)); err != nil && length > 0 {
		return fmt.Errorf("read dump: %w", err)
	}
	missing := map[string]bool{"pv_mem_meta": true, "pv_compl": true}
	for i := range n {
		name, _, length, whole := section(i)
		if uint64(name) >= uint64(len(strings)) || length == 0 {
			continue
		}
		word := cString(strings[name:])
		if missing[word] && !whole {
			return fmt.Errorf("%w: it ends before its section %s does", ErrPlainDump, word)
		}
		delete(missing, word)
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: it lacks what only the ultravisor can write: the ultravisor refused the dump", ErrPlainDump)
	}
	return nil
}

// cString is a text up to its NUL.
func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
