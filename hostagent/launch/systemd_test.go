package launch

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// fakeUnits is a systemd that runs processes, but confines nothing. In a node (see
// cross/node) the same tests use the real one.
type fakeUnits struct {
	mu    sync.Mutex
	units map[string]*fakeUnit
	away  error // answer to each call
	lost  int   // so many answers to start are lost, though it was done
}

type fakeUnit struct {
	description string
	state       unitState
	cmd         *exec.Cmd
}

func (f *fakeUnits) start(_ context.Context, unit string, properties []property) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away != nil {
		return f.away
	}
	if f.units[unit] != nil {
		return errUnitExists
	}
	u := &fakeUnit{state: unitState{Sub: "running"}}
	random := make([]byte, 16)
	rand.Read(random)
	u.state.Invocation = hex.EncodeToString(random)
	for _, p := range properties {
		switch v := p.Value.Value().(type) {
		case string:
			if p.Name == "Description" {
				u.description = v
			}
		case []execStart:
			u.cmd = exec.Command(v[0].Path, v[0].Args[1:]...)
		case dbus.UnixFD:
			fd, err := unix.FcntlInt(uintptr(v), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return err
			}
			stdin := os.NewFile(uintptr(fd), "stdin")
			defer stdin.Close()
			defer func() { u.cmd.Stdin = nil }()
			u.cmd.Stdin = stdin
		}
	}
	u.cmd.Env = []string{"INVOCATION_ID=" + u.state.Invocation}
	f.units[unit] = u
	if err := u.cmd.Start(); err != nil {
		u.state.Sub, u.state.Code, u.state.Status, u.state.Result = "failed", cldExited, 203, "exit-code"
		return nil
	}
	if f.lost > 0 {
		f.lost--
		defer func() { err = ErrNoSystemd }()
	}
	u.state.MainPID = uint32(u.cmd.Process.Pid)
	go func() {
		u.cmd.Wait()
		exit := exitOf(u.cmd.ProcessState.Sys().(syscall.WaitStatus))
		f.mu.Lock()
		defer f.mu.Unlock()
		u.state.Code, u.state.Status = cldExited, int32(exit.Code)
		if exit.Signal != 0 {
			u.state.Code, u.state.Status = cldKilled, int32(exit.Signal)
		}
		u.state.Sub = "failed"
		if exit == (Exit{Known: true}) {
			u.state.Sub = "exited"
		}
	}()
	return nil
}

func (f *fakeUnits) state(_ context.Context, unit string) (*unitState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away != nil {
		return nil, f.away
	}
	if u := f.units[unit]; u != nil {
		state := u.state
		return &state, nil
	}
	return &unitState{Sub: "dead"}, nil
}

func (f *fakeUnits) clear(_ context.Context, unit string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away != nil {
		return f.away
	}
	u := f.units[unit]
	switch {
	case u == nil:
	case u.state.ended():
		delete(f.units, unit)
	default:
		u.cmd.Process.Kill()
	}
	return nil
}

func (f *fakeUnits) list(context.Context, string) (out []listed, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, u := range f.units {
		out = append(out, listed{name, u.description})
	}
	return out, f.away
}

func (f *fakeUnits) holds(id Identity) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if u := f.units[id.Unit]; u == nil || u.state.Invocation != id.Invocation {
		return ErrGone
	}
	return nil
}

// withUnits is a launcher with real units in a node, and with fake ones elsewhere.
func withUnits(t *testing.T) *Systemd {
	t.Helper()
	withPidfd(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	if !inNode() {
		return &Systemd{&fakeUnits{units: make(map[string]*fakeUnit)}, os.Args[0], log}
	}
	s, err := NewSystemd(t.Context(), os.Args[0], log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func inNode() bool {
	_, err := os.Stat(systemdPresent)
	return err == nil && os.Geteuid() == 0 && os.Getenv("container") == "secexec-node"
}

// unitSpec is a guest named after the test.
func unitSpec(t *testing.T, what string) Spec {
	t.Helper()
	dir, err := os.MkdirTemp("", "unit")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	spec := role(what, filepath.Join(dir, "log"))
	spec.Name = strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	spec.UUID = fmt.Sprintf("6d1f3d90-8c86-4a2f-9d3c-%012x", time.Now().UnixNano()&0xffffffffffff)
	spec.Argv = []string{os.Args[0], "-uuid", spec.UUID}
	return spec
}

func startUnit(t *testing.T, s *Systemd, spec Spec) Process {
	t.Helper()
	p, err := s.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill(context.Background()) })
	return p
}

// vanished wants an ended unit to leave nothing.
func vanished(t *testing.T, s *Systemd, name string) {
	t.Helper()
	unit, _ := UnitName(name)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		units, err := s.units.list(context.Background(), unit)
		there := false
		for _, u := range units {
			there = there || u.Name == unit
		}
		if err == nil && !there {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("unit %s is left: %v", unit, err)
		}
	}
}

func TestUnitExits(t *testing.T) {
	t.Parallel()
	for what, want := range map[string]Exit{"exit": {Code: 7, Known: true}, "nothing": {Known: true}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := withUnits(t)
			spec := unitSpec(t, what)
			p := startUnit(t, s, spec)
			if got := waitExit(t, p); got != want {
				t.Errorf("exit %+v, want %+v", got, want)
			}
			vanished(t, s, spec.Name)
			if err := p.Kill(t.Context()); err != nil {
				t.Errorf("kill of an ended process: %v", err)
			}
			if text, err := os.ReadFile(spec.LogPath); what == "exit" && (err != nil || string(text) != "to stdout\nto stderr\n") {
				t.Errorf("log %q, %v", text, err)
			}
		})
	}
}

func TestUnitKill(t *testing.T) {
	t.Parallel()
	s := withUnits(t)
	spec := unitSpec(t, "sleep")
	p := startUnit(t, s, spec)
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.Exit(); !got.Known || got.Signal != syscall.SIGKILL || got.OOM {
		t.Errorf("exit %+v, want SIGKILL", got)
	}
	vanished(t, s, spec.Name)
}

// A guest's unit is its lock, and free again once its process has ended.
func TestUnitIsALock(t *testing.T) {
	t.Parallel()
	s := withUnits(t)
	spec := unitSpec(t, "sleep")
	p := startUnit(t, s, spec)
	if _, err := s.Start(t.Context(), spec); !errors.Is(err, ErrRuns) {
		t.Fatalf("second start: %v", err)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	p = startUnit(t, s, spec)
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// What the process finds: its files in their places and no other.
func TestUnitSurroundings(t *testing.T) {
	t.Parallel()
	s := withUnits(t)
	spec := unitSpec(t, "surroundings")
	dir := filepath.Dir(spec.LogPath)
	for i := range 20 {
		f, err := os.Create(fmt.Sprintf("%s/file%d", dir, i))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		spec.Files = append(spec.Files, f)
	}
	p := startUnit(t, s, spec)
	if got := waitExit(t, p); got != (Exit{Known: true}) {
		t.Fatalf("exit %+v", got)
	}
	text, err := os.ReadFile(spec.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Files, Env []string
		SID, PID   int
		Dir        string
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	want := map[string]string{"0": "/dev/null", "1": spec.LogPath, "2": spec.LogPath}
	for i, f := range spec.Files {
		want[fmt.Sprint(3+i)] = f.Name()
	}
	for _, f := range got.Files {
		fd, target, _ := strings.Cut(f, " ")
		switch {
		case want[fd] == target:
			delete(want, fd)
		case strings.HasPrefix(target, "anon_inode:"), strings.HasPrefix(target, "/proc/"),
			strings.HasPrefix(target, "/sys/fs/cgroup/"): // the Go runtime's own
		default:
			t.Errorf("process has file descriptor %s", f)
		}
	}
	if len(want) > 0 {
		t.Errorf("process lacks %v, has %q", want, got.Files)
	}
	if len(got.Env) != 1 || got.Dir != "/" || got.SID != got.PID && inNode() {
		t.Errorf("%+v", got)
	}
}

// A process reaches the devices that it needs, which its user's groups let it, and
// no other; and it makes no socket.
func TestUnitDevices(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/kvm"); err != nil || !inNode() {
		t.Skip("needs /dev/kvm and a systemd of its own: cross/node runs this test in a node")
	}
	s := withUnits(t)
	spec := unitSpec(t, "device")
	spec.Needs.Devices = []string{"/dev/kvm"}
	p := startUnit(t, s, spec)
	if got := waitExit(t, p); got != (Exit{Known: true}) {
		t.Errorf("exit %+v", got)
	}
	if text, err := os.ReadFile(spec.LogPath); err != nil || string(text) != "/dev/kvm\n" {
		t.Errorf("reaches %q, %v", text, err)
	}
}

func TestUnitFailures(t *testing.T) {
	t.Parallel()
	s := withUnits(t)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no program\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name, words string
		spoil       func(spec *Spec, s *Systemd) context.Context
	}{
		{"no program", "no such file", func(spec *Spec, _ *Systemd) context.Context { spec.Argv[0] = "/none"; return t.Context() }},
		{"no program that runs", "execute " + text + ":", func(spec *Spec, _ *Systemd) context.Context { spec.Argv[0] = text; return t.Context() }},
		{"no hostagent", "203/EXEC", func(_ *Spec, s *Systemd) context.Context { s.program = "/none"; return t.Context() }},
		{"no folder", "change to /none", func(spec *Spec, _ *Systemd) context.Context { spec.Dir = "/none"; return t.Context() }},
		{"hostagent of another kind", "before QEMU ran", func(_ *Spec, s *Systemd) context.Context { s.program = "/bin/false"; return t.Context() }},
		{"no name", "guest name", func(spec *Spec, _ *Systemd) context.Context { spec.Name = "A b"; return t.Context() }},
		{"no UUID", "no UUID", func(spec *Spec, _ *Systemd) context.Context { spec.UUID = ""; return t.Context() }},
		{"too many files", "at most 240", func(spec *Spec, _ *Systemd) context.Context {
			spec.Files = make([]*os.File, maxFiles+1)
			return t.Context()
		}},
		{"no device", "no such file", func(spec *Spec, _ *Systemd) context.Context {
			spec.Needs.Devices = []string{"/dev/none"}
			return t.Context()
		}},
		{"a file for a device", "is no device", func(spec *Spec, _ *Systemd) context.Context {
			spec.Needs.Devices = []string{"/etc/passwd"}
			return t.Context()
		}},
		{"context done", "canceled", func(*Spec, *Systemd) context.Context { return done }},
	} {
		t.Run(c.name, func(t *testing.T) {
			mine := *s
			spec := unitSpec(t, "sleep")
			spec.Name = "failing"
			p, err := mine.Start(c.spoil(&spec, &mine), spec)
			if err == nil {
				p.Kill(context.Background())
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %q", err, c.words)
			}
			vanished(t, s, "failing")
		})
	}
}

// The next launcher adopts a unit's process, and knows how it ends.
func TestUnitAdopted(t *testing.T) {
	t.Parallel()
	s := withUnits(t)
	spec := unitSpec(t, "sleep")
	p := startUnit(t, s, spec)
	id := p.Identity()
	text, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	var stored Identity
	if err := json.Unmarshal(text, &stored); err != nil || stored != id {
		t.Fatalf("%s is %+v, %v", text, stored, err)
	}
	for name, wrong := range map[string]Identity{
		"another process":    {PID: os.Getpid(), StartTicks: id.StartTicks, BootID: id.BootID, Unit: id.Unit, Invocation: id.Invocation},
		"another run":        {PID: id.PID, StartTicks: id.StartTicks, BootID: id.BootID, Unit: id.Unit, Invocation: run1},
		"another unit":       {PID: id.PID, StartTicks: id.StartTicks, BootID: id.BootID, Unit: "secexec-guest-none.service", Invocation: id.Invocation},
		"another start time": {PID: id.PID, StartTicks: id.StartTicks + 1, BootID: id.BootID, Unit: id.Unit, Invocation: run1},
	} {
		if _, err := s.Adopt(t.Context(), wrong); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v, want ErrGone", name, err)
		}
	}
	again, err := s.Adopt(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	// One of the two reads how it ended first; the unit is cleared away then.
	unix.Kill(id.PID, syscall.SIGTERM)
	exits := []Exit{waitExit(t, p), waitExit(t, again)}
	if want := (Exit{Code: -1, Signal: syscall.SIGTERM, Known: true}); exits[0] != want && exits[1] != want {
		t.Errorf("exits %+v, want %+v", exits, want)
	}
	vanished(t, s, spec.Name)
}

// A process that ends while nobody watches is told of with its status.
func TestUnitEndedUnseen(t *testing.T) {
	t.Parallel()
	s := withUnits(t)
	spec := unitSpec(t, "sleep")
	deaf := &Systemd{unheard{s.units}, s.program, s.log}
	p := startUnit(t, deaf, spec)
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.Exit(); got != (Exit{}) {
		t.Errorf("without systemd the exit is known: %+v", got)
	}
	_, err := s.Adopt(t.Context(), p.Identity())
	var ended *EndedError
	if !errors.Is(err, ErrGone) || !errors.As(err, &ended) || ended.Exit.Signal != syscall.SIGKILL {
		t.Errorf("adopt: %v", err)
	}
	vanished(t, s, spec.Name)
	if _, err := s.Adopt(t.Context(), p.Identity()); !errors.Is(err, ErrGone) || errors.As(err, &ended) {
		t.Errorf("adopt of a cleared unit: %v", err)
	}
}

// unheard is a systemd that answers no question about a unit.
type unheard struct{ manager }

func (unheard) state(context.Context, string) (*unitState, error) { return nil, ErrNoSystemd }

func TestUnitOrphans(t *testing.T) {
	t.Parallel()
	s := withUnits(t)
	spec, other := unitSpec(t, "sleep"), unitSpec(t, "sleep")
	other.Name += "-2"
	p, q := startUnit(t, s, spec), startUnit(t, s, other)
	found, err := s.FindOrphans(t.Context(), spec.UUID)
	if err != nil {
		t.Fatal(err)
	}
	of := func(processes []Process) (out []int) {
		for _, p := range processes {
			out = append(out, p.Identity().PID)
		}
		return out
	}
	if len(found) == 0 || found[len(found)-1].Identity() != p.Identity() {
		t.Fatalf("orphans %v, want %d", of(found), p.Identity().PID)
	}
	for _, f := range found {
		if err := f.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	waitExit(t, p)
	vanished(t, s, spec.Name)
	select {
	case <-q.Exited():
		t.Error("another guest ended too")
	default:
	}
	// A start that was cut off before the handover leaves a unit that waits. It
	// becomes nothing, and is ended like any other.
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	props, err := properties(&spec, confinement{program: s.program}, dbus.UnixFD(ends[1]))
	if err != nil {
		t.Fatal(err)
	}
	unit, _ := UnitName(spec.Name)
	if err := s.units.start(t.Context(), unit, props); err != nil {
		t.Fatal(err)
	}
	unix.Close(ends[1])
	for {
		found, err := s.FindOrphans(t.Context(), spec.UUID)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if err := f.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if len(found) == 0 {
			break
		}
	}
	vanished(t, s, spec.Name)
}

// Without systemd nothing starts, what runs is watched on, and a new connection is
// made once it is back. It runs by itself: others' calls would be cut off, too.
func TestUnitsWithoutSystemd(t *testing.T) {
	s := withUnits(t)
	spec := unitSpec(t, "sleep")
	p := startUnit(t, s, spec)
	var others []Process
	if b, ok := s.units.(*bus); ok {
		b.conn.Close()
		if out, err := exec.Command("systemctl", "daemon-reexec").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	} else {
		fake := s.units.(*fakeUnits)
		fake.mu.Lock()
		fake.away = fmt.Errorf("%w: gone", ErrNoSystemd)
		fake.mu.Unlock()
		if _, err := s.Start(t.Context(), unitSpec(t, "sleep")); !errors.Is(err, ErrNoSystemd) {
			t.Errorf("start: %v", err)
		}
		if _, err := s.FindOrphans(t.Context(), spec.UUID); !errors.Is(err, ErrNoSystemd) {
			t.Errorf("find orphans: %v", err)
		}
		again, err := s.Adopt(t.Context(), p.Identity())
		if err != nil {
			t.Fatalf("adopt: %v", err)
		}
		others = append(others, again)
		fake.mu.Lock()
		fake.away = nil
		fake.mu.Unlock()
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	exits := []Exit{p.Exit()} // whoever watches reads how it ended, and the first one clears the unit away
	for _, other := range others {
		exits = append(exits, waitExit(t, other))
	}
	if !slices.ContainsFunc(exits, func(e Exit) bool { return e.Signal == syscall.SIGKILL }) {
		t.Errorf("exits %+v", exits)
	}
}

// systemd did start the unit, but broke the connection before it said so: what
// waits there is cleared away and started again, and nothing else is.
func TestUnitWhoseStartIsNotAnswered(t *testing.T) {
	t.Parallel()
	withPidfd(t)
	fake := &fakeUnits{units: make(map[string]*fakeUnit), lost: 1}
	s := &Systemd{fake, os.Args[0], slog.New(slog.DiscardHandler)}
	spec := unitSpec(t, "sleep")
	p := startUnit(t, s, spec)
	unit, _ := UnitName(spec.Name)
	if err := s.abandon(t.Context(), unit, spec.UUID); !errors.Is(err, ErrRuns) {
		t.Errorf("what runs is abandoned: %v", err)
	}
	select {
	case <-p.Exited():
		t.Error("what ran was ended")
	default:
	}
	fake.lost = 2
	second := unitSpec(t, "sleep")
	second.Name += "-2"
	if _, err := s.Start(t.Context(), second); !errors.Is(err, ErrNoSystemd) {
		t.Errorf("never answered: %v", err)
	}
}

// A launcher that is killed with -9 leaves its units, and they what they run.
func TestUnitOutlivesItsLauncher(t *testing.T) {
	t.Parallel()
	if !inNode() {
		t.Skip("needs a systemd of its own: cross/node runs this test in a node")
	}
	s := withUnits(t)
	spec := unitSpec(t, "sleep")
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{roleEnv + "=unit launcher", "LAUNCH_TEST_LOG=" + spec.LogPath, "LAUNCH_TEST_NAME=" + spec.Name, "LAUNCH_TEST_UUID=" + spec.UUID}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(io.LimitReader(out, 4096)).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var id Identity
	if err := json.Unmarshal(line, &id); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	cmd.Process.Kill()
	cmd.Wait()
	p, err := s.Adopt(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	unix.Kill(id.PID, syscall.SIGKILL)
	got := waitExit(t, p)
	t.Logf("end of an adopted process told within %v", time.Since(begin))
	if got.Signal != syscall.SIGKILL {
		t.Errorf("exit %+v", got)
	}
	vanished(t, s, spec.Name)
}

// unitLauncher starts a unit, tells its identity and waits to be killed.
func unitLauncher() {
	s, err := NewSystemd(context.Background(), os.Args[0], slog.Default())
	if err == nil {
		uuid := os.Getenv("LAUNCH_TEST_UUID")
		spec := role("sleep", os.Getenv("LAUNCH_TEST_LOG"))
		spec.Name, spec.UUID, spec.Argv = os.Getenv("LAUNCH_TEST_NAME"), uuid, []string{os.Args[0], "-uuid", uuid}
		var p Process
		if p, err = s.Start(context.Background(), spec); err == nil {
			json.NewEncoder(os.Stdout).Encode(p.Identity())
			time.Sleep(time.Minute)
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

func TestGroupsOf(t *testing.T) {
	t.Parallel()
	if groups, err := groupsOf([]string{"/dev/null"}); err != nil || len(groups) != 0 {
		t.Errorf("%q, %v", groups, err)
	}
	if _, err := groupsOf([]string{"/dev/none"}); err == nil {
		t.Error("no error")
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	if _, _, err := Choose(t.Context(), "fork", log); err == nil {
		t.Error("unknown launcher is taken")
	}
	for _, name := range []string{NameDirect, NameAuto} { // this test is no service
		l, done, err := Choose(t.Context(), name, log)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := l.(Direct); !ok {
			t.Errorf("%s is %T", name, l)
		}
		done()
	}
	if _, err := os.Stat(systemdPresent); err != nil {
		if _, _, err := Choose(t.Context(), NameSystemd, log); !errors.Is(err, ErrNoSystemd) {
			t.Errorf("systemd where there is none: %v", err)
		}
	}
}
