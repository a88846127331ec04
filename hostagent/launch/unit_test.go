package launch

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

var update = flag.Bool("update", false, "write golden files")

func TestUnitName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"web-1": "secexec-guest-web-1.service", "a": "secexec-guest-a.service", "-": "", "": "", "A": "", "a.service": "", "a/b": "",
		"a@b": "", "a\\x2d": "", "ä": "", strings.Repeat("a", 63): "secexec-guest-" + strings.Repeat("a", 63) + ".service", strings.Repeat("a", 64): "",
	} {
		if got, err := UnitName(name); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestDescription(t *testing.T) {
	t.Parallel()
	text := description(&Spec{Name: "web-1", UUID: testUUID})
	for uuid, want := range map[string]bool{testUUID: true, "": false, testUUID[1:]: false, "x": false} {
		if describes(text, uuid) != want {
			t.Errorf("%q describes %q: %v", text, uuid, !want)
		}
	}
	if describes("foreign ("+testUUID+")", testUUID) {
		t.Error("a foreign unit counts")
	}
}

func TestObjectPath(t *testing.T) {
	t.Parallel()
	if got := objectPath("secexec-guest-web-1.service"); got != "/org/freedesktop/systemd1/unit/secexec_2dguest_2dweb_2d1_2eservice" {
		t.Error(got)
	}
	if got := objectPath("1a_b"); got != "/org/freedesktop/systemd1/unit/_31a_5fb" {
		t.Error(got)
	}
}

// The unit of a guest with KVM and of one without, property by property;
// docs/launcher.md explains them.
func TestProperties(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]Spec{
		"kvm": {
			Needs: Needs{Devices: []string{"/dev/kvm"}}, MemoryBytes: 1 << 30,
			Resources: Resources{CPUWeight: 200, CPUPercent: 150, IOWeight: 50},
		},
		"tcg": {Needs: Needs{Translates: true, Network: true}, MemoryBytes: 1 << 30},
	} {
		spec.Name, spec.UUID = "web-1", testUUID
		var groups []string
		if name == "kvm" {
			groups = []string{"108"}
		}
		props, err := properties(&spec, confinement{"/usr/bin/hostagent", groups}, 5)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, p := range props {
			fmt.Fprintf(&b, "%s %s\n", p.Name, p.Value.String())
		}
		path := "testdata/" + name + ".unit"
		if *update {
			if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("%s differs (go test -update writes it anew):\n%s", path, b.String())
		}
	}
	if _, err := properties(&Spec{Name: "web-1"}, confinement{"/x", nil}, 5); err == nil {
		t.Error("a unit that no UUID finds")
	}
}

func TestExitOfAUnitState(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state unitState
		want  Exit
		words string
	}{
		{unitState{Sub: "exited", Code: 1, Result: "success"}, Exit{Known: true}, "exit status 0"},
		{unitState{Sub: "failed", Code: 1, Status: 1, Result: "exit-code"}, Exit{Code: 1, Known: true}, "exit status 1"},
		{unitState{Sub: "failed", Code: 2, Status: 9, Result: "signal"}, Exit{Code: -1, Signal: syscall.SIGKILL, Known: true}, "killed by signal 9 (killed)"},
		{unitState{Sub: "failed", Code: 3, Status: 11, Result: "core-dump"}, Exit{Code: -1, Signal: syscall.SIGSEGV, Known: true}, "killed by signal 11 (segmentation fault)"},
		{unitState{Sub: "failed", Code: 2, Status: 9, Result: "oom-kill"}, Exit{Code: -1, Signal: syscall.SIGKILL, Known: true, OOM: true}, "killed for want of memory"},
		{unitState{Sub: "dead"}, Exit{}, "ended, exit status unknown"},
	} {
		if got := c.state.exit(); got != c.want || got.String() != c.words || !c.state.ended() {
			t.Errorf("%+v ended as %+v (%s)", c.state, got, got)
		}
	}
	for _, sub := range []string{"running", "start", "stop-sigterm", "final-sigkill"} {
		if (&unitState{Sub: sub}).ended() {
			t.Errorf("%s counts as ended", sub)
		}
	}
	for status, want := range map[int32]string{203: "203/EXEC", 226: "226/NAMESPACE", 5: "exit status 5"} {
		if got := (&unitState{Sub: "failed", Code: 1, Status: status}).why(); !strings.Contains(got, want) {
			t.Errorf("status %d: %s", status, got)
		}
	}
}
