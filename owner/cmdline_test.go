package owner

import (
	"errors"
	"testing"
)

func TestCheckCmdline(t *testing.T) {
	t.Parallel()
	for _, refused := range []string{
		"rdinit=/bin/sh", "console=ttysclp0 rdinit=/x", "noinitrd root=/dev/vda", "initrd=0x1000,1", "initrdmem=0x1000,1", "init=/bin/sh",
		"sysrq_always_enabled", "sysrq-always-enabled", "sysrq_always_enabled=1", "kgdboc=ttysclp0 kgdbwait", "kgdbcon",
		`"rdinit=/bin/sh"`, `"init=/bin/sh single"`, "quiet\trdinit=/x", "quiet\nrdinit=/x", `a="b c" rdinit=/x`, "\u00e0rdinit=/x",
	} {
		if err := checkCmdline(refused); !errors.Is(err, ErrCmdline) {
			t.Errorf("%q: %v", refused, err)
		}
	}
	for _, allowed := range []string{
		"", DefaultCmdline(3), "single", "break=premount", "rd.break systemd.debug_shell=1 systemd.unit=rescue.target", "rdinitx=/x xrdinit=/x", "quiet -- init=/x rdinit=/x",
		`note="a rdinit=/x b"`, "my.init=/x", "panic=0 loglevel=7", "Init=/x",
	} {
		if err := checkCmdline(allowed); err != nil {
			t.Errorf("%q: %v", allowed, err)
		}
	}
}
