package booted

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// memory reads a process's writable memory, but for shared mappings of files:
// there guest memory lies.
func memory(t *testing.T, pid int, do func(region string, data []byte)) {
	t.Helper()
	mapped(t, pid, "p", func(region string, _ int64, data []byte) { do(region, data) })
}

// guestMemory reads an emulated guest's memory, as its QEMU has it mapped; at is
// the guest's own address.
func guestMemory(t *testing.T, pid int, do func(at int64, data []byte)) {
	t.Helper()
	mapped(t, pid, "s", func(_ string, at int64, data []byte) { do(at, data) })
}

// mapped reads writable mappings, shared ("s") or private ("p"), in pieces.
func mapped(t *testing.T, pid int, kind string, do func(region string, at int64, data []byte)) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") || mode[3:] != kind {
			continue
		}
		for start := from; from < to; from += 1 << 20 {
			buf := make([]byte, min(1<<20+64, to-from)) // overlapping: a key may lie across
			if n, _ := mem.ReadAt(buf, from); n > 0 {
				do(strings.TrimSpace(line), from-start, buf[:n])
			}
		}
	}
}
