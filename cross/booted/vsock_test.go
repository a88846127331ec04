package booted

import (
	"strings"
	"testing"
)

// Node and guest have their vsock tests run where the kernel has all that those
// want: a device that gives guests addresses, and a way from the machine back to
// itself, by which the guest's end serves and an owner's client calls.
func TestVsockOnItsOwnKernel(t *testing.T) {
	t.Parallel()
	out := onBench(t, []string{"vsock_loopback", "vhost_vsock"}, map[string]string{
		"../../hostagent/qemu": "^(TestVsockDevice|TestAllocateCID)$", "../../guestagent": "^TestVsock",
	})
	for _, want := range []string{
		"--- PASS: TestVsockDevice", "testbench: qemu.test: <nil>",
		"--- PASS: TestVsock ", "--- PASS: TestVsockIsForTheHost", "testbench: guestagent.test: <nil>",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if t.Failed() || strings.Contains(out, "SKIP") {
		t.Errorf("the machine says:\n%s", out)
	}
}
