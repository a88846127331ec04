package qemu

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	probeHello = `{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}` + "\r\n" + `{"return": {}, "id": 1}` + "\r\n"
	probeTypes = `{"return": [{"name": "memory-backend-ram", "parent": "memory-backend"}, {"name": "s390-pv-guest", "parent": "confidential-guest-support"}], "id": 2}` + "\r\n"
	probeModel = `{"return": {"model": {"name": "gen16a", "props": {"vx": true, "unpack": true, "diag318": false}}}, "id": 3}` + "\r\n"
	probeBye   = `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}` + "\r\n" + `{"return": {}, "id": 4}` + "\r\n"
)

func TestParseProbe(t *testing.T) {
	t.Parallel()
	all := Capabilities{PVGuest: true, Unpack: true}
	for _, c := range []struct {
		name, out string
		want      Capabilities
		fails     bool
	}{
		{"all", probeHello + probeTypes + probeModel + probeBye, all, false},
		{"another order", probeHello + probeModel + probeTypes + probeBye, all, false},
		{"no object", probeHello + strings.Replace(probeTypes, "s390-pv-guest", "s390-pv-guests", 1) + probeModel, Capabilities{Unpack: true}, false},
		{"unpack off", probeHello + probeTypes + strings.Replace(probeModel, `"unpack": true`, `"unpack": false`, 1), Capabilities{PVGuest: true}, false},
		{"unpack unknown", probeHello + probeTypes + strings.Replace(probeModel, `"unpack"`, `"unpacked"`, 1), Capabilities{PVGuest: true}, false},
		{"unpack no truth value", probeHello + probeTypes + strings.Replace(probeModel, `"unpack": true`, `"unpack": "on"`, 1), Capabilities{PVGuest: true}, false},
		{"no host model", probeHello + probeTypes + `{"id": 3, "error": {"class": "GenericError", "desc": "The CPU type 'host' requires KVM"}}` + "\n", Capabilities{PVGuest: true}, false},
		{"types refused", probeHello + `{"id": 2, "error": {"class": "CommandNotFound", "desc": "no"}}` + "\n" + probeModel, Capabilities{}, true},
		{"ends early", probeHello + probeTypes, Capabilities{}, true},
		{"nothing", "", Capabilities{}, true},
		{"no JSON", "QEMU\n", Capabilities{}, true},
		{"types no list", probeHello + `{"return": {}, "id": 2}` + "\n" + probeModel, Capabilities{}, true},
		{"model no object", probeHello + probeTypes + `{"return": [], "id": 3}` + "\n", Capabilities{}, true},
		{"an endless line", strings.Repeat("x", maxLine+1), Capabilities{}, true},
	} {
		got, err := parseProbe([]byte(c.out))
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func FuzzParseProbe(f *testing.F) {
	f.Add([]byte(probeHello + probeTypes + probeModel + probeBye))
	f.Add([]byte(probeHello + `{"id": 3, "error": {"class": "x", "desc": "y"}}` + "\n" + probeTypes))
	f.Fuzz(func(t *testing.T, out []byte) {
		if c, err := parseProbe(out); err != nil && c != (Capabilities{}) {
			t.Errorf("error %v with %+v", err, c)
		}
	})
}

// The installed QEMU answers the probe; what is believed of TCG is that it has
// no feature unpack.
func TestPremiseProbe(t *testing.T) {
	t.Parallel()
	binary, err := exec.LookPath("qemu-system-s390x")
	if err != nil {
		t.Skipf("%v: Debian package qemu-system-misc", err)
	}
	c, err := Probe(t.Context(), binary, "tcg")
	if err != nil || c.Release.Check() != nil || c.Unpack {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := Probe(t.Context(), binary, "nonsense"); err == nil || !strings.Contains(err.Error(), "accelerator") {
		t.Errorf("error %v", err)
	}
}

func TestProbeFailures(t *testing.T) {
	t.Parallel()
	const version = `case " $* " in *" -version "*) echo 'QEMU emulator version 10.0.2'; exit;; esac` + "\n"
	for name, c := range map[string]struct{ script, words string }{
		"dies":    {"echo 'Could not access KVM kernel module' >&2; exit 1", "Could not access KVM"},
		"silent":  {"exit 0", "before it had answered"},
		"garbage": {"echo hello", "QMP protocol error"},
		"floods":  {"yes | head -c 10000000", "QMP protocol error"},
		"too old": {"", "too old"},
		"no QEMU": {"", "exit status 3"},
	} {
		script := version + c.script
		switch name {
		case "too old":
			script = "echo 'QEMU emulator version 6.0.0'"
		case "no QEMU":
			script = "exit 3"
		}
		if _, err := Probe(t.Context(), program(t, script), "kvm"); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: error %v, want one about %q", name, err, c.words)
		}
	}
}

// A program is asked once, another time when its file has changed.
func TestAnswers(t *testing.T) {
	t.Parallel()
	var known answers[int]
	asked := 0
	ask := func() (int, error) { asked++; return asked, nil }
	path := program(t, "one")
	for range 3 {
		if n, _ := known.get(path, ask); n != 1 {
			t.Errorf("answer %d", n)
		}
	}
	for i := range 2 * maxAnswers {
		if n, _ := known.get(program(t, strings.Repeat("x", i)), ask); n != 2+i {
			t.Errorf("program %d: answer %d", i, n)
		}
	}
	if len(known.known) > maxAnswers {
		t.Errorf("%d answers kept", len(known.known))
	}
	if _, err := known.get("/absent", func() (int, error) { return 0, exec.ErrNotFound }); err == nil {
		t.Error("no error of what is not there")
	}
}

// What a program can't do is asked again, what it can is not.
func TestCheckSecure(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		types, model string
		words        string
	}{
		"all":        {probeTypes, probeModel, ""},
		"no object":  {strings.Replace(probeTypes, "s390-pv-guest", "x", 1), probeModel, "no object s390-pv-guest"},
		"unpack off": {probeTypes, strings.Replace(probeModel, `"unpack": true`, `"unpack": false`, 1), "unpack"},
	} {
		count := filepath.Join(t.TempDir(), "count")
		path := program(t, "echo >>"+count+"\n"+`case " $* " in *" -version "*) echo 'QEMU emulator version 10.0.2'; exit;; esac`+"\ncat <<'E'\n"+probeHello+c.types+c.model+probeBye+"E\n")
		for range 3 {
			err := CheckSecure(t.Context(), path)
			if c.words == "" && err != nil || c.words != "" && (!errors.Is(err, ErrNoSecureGuests) || !strings.Contains(err.Error(), c.words)) {
				t.Errorf("%s: %v", name, err)
			}
		}
		asked, _ := os.ReadFile(count)
		if want := map[bool]int{true: 2, false: 4}[c.words == ""]; len(asked) != want { // its version once
			t.Errorf("%s: asked %d times, want %d", name, len(asked), want)
		}
	}
}
