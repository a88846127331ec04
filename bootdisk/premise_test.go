package bootdisk

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// counter is s390x code for address 0x10000: it wants the last word of each
// loaded block to be the block's number, and stops the CPU, on which QEMU ends
// with status 0; or waits disabled, which with -action panic=exit-failure is 1.
// The number of blocks is the word at 0x50.
//
//	lhi  %r7,0          1:  cl   %r7,508(%r4)       brct %r6,1b      2:  larl  %r1,psw
//	larl %r4,.-4            jne  2f                 xr   %r3,%r3         lpswe 0(%r1)
//	larl %r1,count          ahi  %r7,1              sigp %r2,%r3,5   psw:   .quad 0x0002000180000000,0xdead
//	l    %r6,0(%r1)         ahi  %r4,512            j    .           count: .long 0
const counter = "a7780000c040fffffffec0100000002358601000557041fca774000da77a0001" +
	"a74a0200a766fff81733ae230005a7f40000c01000000007b2b2100007070707" +
	"0002000180000000000000000000dead00000000"

// QEMU's firmware reads what marshalRecord writes: segment tables one after the
// other, blocks in any order on the disk, runs of more than 65536 blocks.
func TestPremiseFirmwareReadsRecord(t *testing.T) {
	t.Parallel()
	qemu, err := exec.LookPath("qemu-system-s390x")
	if err != nil {
		t.Skip("qemu-system-s390x is not installed")
	}
	const single, run = 150, maxRun + 500
	code, err := hex.DecodeString(counter)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(code[0x50:], single+run)
	boot := func(wrong bool) error {
		path := filepath.Join(t.TempDir(), "disk")
		disk, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer disk.Close()
		if err := disk.Truncate(64 << 20); err != nil {
			t.Fatal(err)
		}
		image := make([]byte, (single+run)*BlockSize)
		copy(image, code)
		for n := range single + run {
			binary.BigEndian.PutUint32(image[(n+1)*BlockSize-4:], uint32(n))
		}
		if wrong {
			image[len(image)-1]++
		}
		runs := []Run{}
		put := func(r Run, data []byte) {
			runs = append(runs, r)
			if _, err := disk.WriteAt(data, r.Block*BlockSize); err != nil {
				t.Fatal(err)
			}
		}
		for n := range int64(single) { // backwards
			put(Run{5000 - 2*n, 1}, image[n*BlockSize:(n+1)*BlockSize])
		}
		put(Run{6000, run}, image[single*BlockSize:])
		if err := writeRecord(disk, []Program{{[]Load{{entryAddr, runs}}, entryPSW}}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, qemu, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-accel", "tcg", "-cpu", "max", "-m", "64",
			"-action", "panic=exit-failure", "-chardev", "stdio,id=c", "-device", "sclpconsole,chardev=c",
			"-drive", "if=none,id=d,format=raw,file="+path, "-device", "virtio-blk-ccw,drive=d,bootindex=1,iommu_platform=on").CombinedOutput()
		if !strings.Contains(string(out), "Using SCSI scheme.") {
			t.Errorf("firmware does not take it for a SCSI disk:\n%s", out)
		}
		if ctx.Err() != nil {
			t.Errorf("guest does not end:\n%s", out)
		}
		return err
	}
	if err := boot(false); err != nil {
		t.Errorf("not loaded as it should be: %v", err)
	}
	var exit *exec.ExitError
	if err := boot(true); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("a wrong block goes unnoticed: %v", err)
	}
}
