package bootloader

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"testing"
)

// A software ultravisor finds its break points by these bytes.
func TestPlainTextInstructions(t *testing.T) {
	t.Parallel()
	var stfle, diag int
	for at := 0; at+4 <= len(stage3a); at += 2 {
		w := binary.BigEndian.Uint32(stage3a[at:])
		if w>>16 == 0xb2b0 {
			stfle++
		}
		if w>>24 == 0x83 && w&0xffff == 0x0308 {
			diag++
			if r1 := w >> 20 & 15; r1%2 != 0 {
				t.Errorf("DIAGNOSE 0x308 at 0x%x names odd register %d", at, r1)
			}
		}
	}
	if stfle != 1 || diag != 2 {
		t.Errorf("%d STFLE and %d DIAGNOSE 0x308, wants 1 and 2", stfle, diag)
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	if end := Stage3aAddr + len(stage3a); end > 0x14000 {
		t.Errorf("stage3a ends at 0x%x, behind the place of the SE header", end)
	}
	if len(stage3b) > 0x4000 {
		t.Errorf("stage3b has %d bytes: it would reach its own stack", len(stage3b))
	}
	if len(entry) > 0x400 || len(entry) > 8 && bytes.HasPrefix(entry[8:], []byte("S390EP")) {
		t.Errorf("entry of %d bytes collides with zipl's stage3 or looks like a kernel", len(entry))
	}
	if want := []byte{0x00, 0x08, 0x00, 0x01, 0x80, 0x01, 0x10, 0x00}; !bytes.Equal(Head(), want) {
		t.Errorf("head %x, wants %x", Head(), want)
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	a := Stage3a(Stage3aArgs{HeaderAddr: 0x14000, HeaderSize: 640, IPIBAddr: 0x1000000})
	base := uint64(Stage3aAddr + len(a) - Stage3aArgsSize)
	args := a[len(a)-Stage3aArgsSize:]
	if got := base + binary.BigEndian.Uint64(args); got != 0x14000 {
		t.Errorf("header at 0x%x", got)
	}
	if got := base + binary.BigEndian.Uint64(args[16:]); got != 0x1000000 {
		t.Errorf("IPIB at 0x%x", got)
	}
	want := Stage3bArgs{Kernel: Range{0x16000, 0x7ffff1}, Cmdline: Range{1, 2}, Initrd: Range{3, 4}, PSWMask: 5, PSWAddr: 6}
	padded := make([]byte, 4096)
	copy(padded, Stage3b(want))
	got, err := FindStage3bArgs(padded, 0x16000, 0x800000)
	if err != nil || got != want {
		t.Errorf("got %+v %v, wants %+v", got, err, want)
	}
	if _, err := FindStage3bArgs(padded, 0x17000, 0x800000); err == nil {
		t.Error("found arguments for a kernel that is not there")
	}
	if _, err := FindStage3bArgs(nil, 0x16000, 0x800000); err == nil {
		t.Error("found arguments in nothing")
	}
}

// The committed blobs are what their sources give.
func TestReproducible(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("s390x-linux-gnu-gcc"); err != nil {
		t.Skip("no s390x-linux-gnu-gcc (Debian package gcc-s390x-linux-gnu): can't rebuild the blobs")
	}
	if out, err := exec.Command("../../cross/bootloader.sh", "--check").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
