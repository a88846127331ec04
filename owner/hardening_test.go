package owner

import (
	"strings"
	"testing"

	"github.com/secexec/secexec/kernel"
	"github.com/secexec/secexec/sealed"
)

func TestHardening(t *testing.T) {
	t.Parallel()
	one := func(name, value string) []sealed.Sysctl { return []sealed.Sysctl{{Name: name, Value: value}} }
	for name, c := range map[string]struct {
		sysctls       []sealed.Sysctl
		strip         bool
		cmdline, conf string
		want          string // of the error, "" for none
	}{
		"any order":               {sysctls: []sealed.Sysctl{{Name: "vm.swappiness", Value: "1"}, {Name: "net.core.somaxconn", Value: "64"}}},
		"twice":                   {sysctls: append(one("vm.swappiness", "1"), one("vm.swappiness", "2")...), want: "vm.swappiness is given twice"},
		"no name":                 {sysctls: one("swappiness", "1"), want: `"swappiness" is no name such as vm.swappiness`},
		"outside":                 {sysctls: one("vm.../kernel", "1"), want: "is no name"},
		"no value":                {sysctls: one("vm.swappiness", ""), want: "no value of one line"},
		"two lines":               {sysctls: one("vm.swappiness", "1\n2"), want: "no value of one line"},
		"too many":                {sysctls: make([]sealed.Sysctl, sealed.MaxSysctls+1), want: "65, at most 64"},
		"stripped":                {strip: true, cmdline: "quiet module.sig_enforce=0 lockdown=none"},
		"stripped, enforced":      {strip: true, cmdline: "quiet module.sig_enforce", want: "the kernel command line says module.sig_enforce, so"},
		"stripped, enforced by 1": {strip: true, cmdline: "module.sig-enforce=1", want: "says module.sig-enforce=1"},
		"stripped, locked down":   {strip: true, cmdline: "lockdown=integrity", want: "says lockdown=integrity"},
		"stripped, built so":      {strip: true, conf: "CONFIG_S390=y\nCONFIG_MODULE_SIG_FORCE=y\n", want: "CONFIG_MODULE_SIG_FORCE=y in config"},
		"kept, locked down":       {cmdline: "lockdown=integrity module.sig_enforce"},
	} {
		p := Plan{Strip: c.strip, Hardening: sealed.Hardening{Sysctls: c.sysctls}}
		k := &kernel.Kernel{Config: []byte(c.conf), ConfigFrom: "config"}
		err := p.checkHardening(&prepared{cmdline: c.cmdline, kernel: k})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, wants %q", name, err, c.want)
		}
	}
	p := Plan{Hardening: sealed.Hardening{Sysctls: []sealed.Sysctl{{Name: "b.b"}, {Name: "a.a"}}}}
	if h := p.hardening(); h.Sysctls[0].Name != "a.a" || p.Hardening.Sysctls[0].Name != "b.b" {
		t.Errorf("sorted %v of %v", h.Sysctls, p.Hardening.Sysctls)
	}
}
