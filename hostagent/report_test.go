package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	check "github.com/secexec/secexec/hostagent/node"
	"github.com/secexec/secexec/hostagent/settings"
)

func TestProblem(t *testing.T) {
	t.Parallel()
	pass, warn := check.Finding{Check: "a", Result: check.Pass, Says: "well"}, check.Finding{Check: "b", Result: check.Warn, Says: "hm", Remedy: "look"}
	fail := check.Finding{Check: "c", Result: check.Fail, Says: "there is no /dev/kvm", Remedy: "modprobe kvm"}
	for want, findings := range map[string][]check.Finding{
		"":                                   {pass, warn},
		"there is no /dev/kvm: modprobe kvm": {pass, fail, warn},
		"there is no /dev/kvm: modprobe kvm (and 2 more: see secexec node check)": {fail, warn, fail, fail},
	} {
		if got := problemOf(findings); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	var out bytes.Buffer
	logReport(t.Context(), slog.New(slog.NewTextHandler(&out, nil)), []check.Finding{pass, warn, fail})
	if text := out.String(); strings.Contains(text, "well") || !strings.Contains(text, "level=WARN") || !strings.Contains(text, `level=ERROR msg="node check" check=c result=FAIL says="there is no /dev/kvm" remedy="modprobe kvm"`) {
		t.Errorf("log:\n%s", text)
	}
}

// A report is made once a minute for those who ask only for problems, and anew
// for those who want it.
func TestReportIsKept(t *testing.T) {
	t.Parallel()
	r := &report{settings: &settings.Settings{Platform: "emulated", QEMU: "no-such-qemu", State: t.TempDir()}}
	if got := r.problem(t.Context()); !strings.Contains(got, "emulated host") || !strings.Contains(got, "more: see secexec node check") {
		t.Errorf("problem %q", got)
	}
	at := r.at
	r.problem(t.Context())
	if r.at != at {
		t.Error("examined again within a minute")
	}
	r.fresh(t.Context())
	if r.at == at {
		t.Error("not examined anew")
	}
}
