package ultravisor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/secexec/secexec/seimage"
)

// stopAt is the PSW of a CPU that stops for good with a code.
func stopAt(code uint16) []byte {
	return []byte{0x00, 0x02, 0x00, 0x01, 0x80, 0x00, 0x00, 0x00, 0, 0, 0, 0, 0, 0, byte(code >> 8), byte(code)}
}

// stoppingKernel is a sealed image whose kernel stops its CPU with code 0x1234.
func stoppingKernel(t *testing.T) *sealed {
	t.Helper()
	code := append([]byte{
		0xc0, 0x10, 0x00, 0x00, 0x00, 0x08, // larl %r1,.+16
		0xb2, 0xb2, 0x10, 0x00, // lpswe 0(%r1)
		0, 0, 0, 0, 0, 0,
	}, stopAt(0x1234)...)
	kernel := testKernel(code)
	s := seal(t, func(spec *seimage.Spec) { spec.Kernel.R = bytes.NewReader(kernel) })
	s.kernel = kernel
	return s
}

// bootStock boots a guest of the installed QEMU with the key of a test host.
func bootStock(t *testing.T, s *stock, key int) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return New(host(t, key)).Boot(ctx, s.dial(t), s.ram, slog.New(slog.DiscardHandler))
}

// An image goes the whole way on stock QEMU: stage3a unmodified, decrypted in
// place, stage3b, kernel.
func TestBootedAdmitted(t *testing.T) {
	t.Parallel()
	image := stoppingKernel(t)
	s := startStock(t, image.bytes)
	if err := bootStock(t, s, 1); err != nil {
		t.Fatal(err)
	}
	if got := s.end(t); got != 0x1234 {
		t.Fatalf("guest stopped at 0x%x: %s", got, s.words(t))
	}
	plainText(t, image, s.ram)
	if got := s.ram[0x10480:][:len(image.cmdline)+1]; string(got) != string(image.cmdline)+"\x00" {
		t.Errorf("kernel's command line is %q", got)
	}
	addr, size := binary.BigEndian.Uint64(s.ram[0x10408:]), binary.BigEndian.Uint64(s.ram[0x10410:])
	if addr != image.summary.IPIB.Components[1].Addr || size != uint64(len(image.initrd)) {
		t.Errorf("kernel's initrd is at 0x%x of %d bytes", addr, size)
	}
	if words := s.words(t); words != "" {
		t.Errorf("boot loader says %q", words)
	}
}

// A refused image's own boot loader says why, and nothing of it was decrypted.
func TestBootedRefused(t *testing.T) {
	t.Parallel()
	image := stoppingKernel(t)
	for _, test := range []struct {
		name   string
		key    int
		flip   uint64 // address
		result uint64
		words  string
	}{
		{"wrong host", 2, 0, 0x0002_0005_0108_0a02, "the image has no key slot for this host (command 0x0002 rc 0x0108 rrc 0x0005 diag 0x0a02)"},
		{"flipped page", 0, image.summary.IPIBAddr - 1, pagesBad, "the image's pages were changed (command 0x0004 rc 0x0102 rrc 0x001b diag 0x0a02)"},
		{"flipped header", 0, image.summary.HeaderAddr + 300, tagBad, "the SE header was changed (command 0x0002 rc 0x010a rrc 0x0000 diag 0x0a02)"},
		{"flipped IPIB", 0, image.summary.IPIBAddr + 7, invalid, "(command 0x0000 rc 0x0000 rrc 0x0000 diag 0x0402)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := bytes.Clone(image.bytes)
			if test.flip > 0 {
				b[test.flip] ^= 1
			}
			s := startStock(t, b)
			err := bootStock(t, s, test.key)
			var r *Refusal
			if !errors.As(err, &r) || r.Result() != test.result {
				t.Errorf("error %v, wants result 0x%016x", err, test.result)
			}
			if got := s.end(t); got != 0x4608 {
				t.Errorf("guest stopped at 0x%x, wants stage3a's 0x4608", got)
			}
			if got := s.words(t); !strings.Contains(got, test.words) {
				t.Errorf("boot loader says %q, wants %q", got, test.words)
			}
			first := image.summary.IPIB.Components[0].Addr
			if !bytes.Equal(s.ram[first:image.summary.IPIBAddr], b[first:image.summary.IPIBAddr]) {
				t.Error("pages of a refused image changed")
			}
		})
	}
}

// Without the stand-in QEMU has no unpack facility, and stage3a says so.
func TestBootedWithoutUltravisor(t *testing.T) {
	t.Parallel()
	s := startStock(t, stoppingKernel(t).bytes)
	if _, err := io.WriteString(s.qmp, `{"execute":"cont"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	if got := s.end(t); got != 0x4607 {
		t.Errorf("guest stopped at 0x%x, wants stage3a's 0x4607", got)
	}
	if got := s.words(t); !strings.Contains(got, "no secure unpack facility (161)") {
		t.Errorf("boot loader says %q", got)
	}
}
