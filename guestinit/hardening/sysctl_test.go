package hardening

import (
	"strings"
	"testing"

	"github.com/secexec/secexec/sealed"
)

func TestParameters(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, p := range parameters {
		if err := sealed.CheckSysctl(p.Sysctl); err != nil || seen[p.Name] {
			t.Errorf("%s: %v, seen %v", p.Name, err, seen[p.Name])
		}
		seen[p.Name] = true
	}
	if got := path("net.ipv4.conf.all.rp_filter"); got != "net/ipv4/conf/all/rp_filter" {
		t.Errorf("path %s", got)
	}
}

func TestPersistent(t *testing.T) {
	t.Parallel()
	text := persistent([]sealed.Sysctl{{Name: "kernel.sysrq", Value: "16"}, {Name: "vm.swappiness", Value: "7"}})
	for line, times := range map[string]int{
		"kernel.sysrq = 16\n": 1, "kernel.sysrq = 0\n": 0, "vm.swappiness = 7\n": 1, "fs.suid_dumpable = 0\n": 1, "kernel.yama": 0,
	} {
		if strings.Count(text, line) != times {
			t.Errorf("%q is not %d times in\n%s", line, times, text)
		}
	}
}

func TestLockedDown(t *testing.T) {
	t.Parallel()
	const none, integrity, confidentiality = sealed.LockdownNone, sealed.LockdownIntegrity, sealed.LockdownConfidentiality
	for _, c := range []struct {
		list  string
		asked sealed.Lockdown
		want  bool
	}{
		{"[none] integrity confidentiality\n", integrity, false},
		{"none [integrity] confidentiality\n", integrity, true},
		{"none [integrity] confidentiality\n", confidentiality, false},
		{"none integrity [confidentiality]\n", integrity, true},
		{"none integrity [confidentiality]\n", none, true},
		{"", integrity, false},
		{"[something]", integrity, false},
	} {
		if got := lockedDown(c.list, c.asked); got != c.want {
			t.Errorf("%q for %d: %v", c.list, c.asked, got)
		}
	}
}
