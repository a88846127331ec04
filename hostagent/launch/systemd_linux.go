package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Bounds of waiting for systemd.
const (
	startTimeout   = 20 * time.Second      // from the order to the running program
	resultTimeout  = 3 * time.Second       // for a unit's word on how its process ended
	clearTimeout   = 5 * time.Second       // for an ended unit to vanish
	systemdPresent = "/run/systemd/system" // sd_booted(3)
)

// Systemd launches processes as the main processes of transient units in
// [Slice], each with a dynamic user of its own, confined and bounded. The unit's
// name is the guest's lock: two cannot run. systemd keeps an ended unit until
// the launcher has read how it ended, also while no hostagent runs.
//
// A process that was launched by [Direct] is adopted too. Without a connection to
// systemd running processes are watched on; how they end is unknown then.
type Systemd struct {
	units   manager
	program string // hostagent's own
	log     *slog.Logger
}

var _ Launcher = (*Systemd)(nil)

// manager is the part of systemd that the launcher calls. Each call is bounded by
// its context. An error that wraps ErrNoSystemd says that it can't be reached.
type manager interface {
	start(ctx context.Context, unit string, properties []property) error // errUnitExists
	state(ctx context.Context, unit string) (*unitState, error)
	clear(ctx context.Context, unit string) error // stop it, and forget its failure
	list(ctx context.Context, pattern string) ([]listed, error)
	// holds wraps ErrGone unless the process belongs to its unit, and to this run
	// of it. It needs no connection.
	holds(id Identity) error
}

// listed is a loaded unit.
type listed struct{ Name, Description string }

var errUnitExists = errors.New("unit exists already")

// NewSystemd returns a launcher that reaches systemd over its own socket, or over
// the system bus where that is not allowed. Units run program in its mode "exec".
// The caller closes it; processes run on.
func NewSystemd(ctx context.Context, program string, log *slog.Logger) (*Systemd, error) {
	if _, err := os.Stat(systemdPresent); err != nil {
		return nil, fmt.Errorf("%w: no %s: systemd did not boot this machine", ErrNoSystemd, systemdPresent)
	}
	b := &bus{}
	if err := b.connect(ctx); err != nil {
		return nil, err
	}
	return &Systemd{units: b, program: program, log: log}, nil
}

// Close ends the connection to systemd.
func (s *Systemd) Close() {
	if b, ok := s.units.(*bus); ok {
		b.close()
	}
}

// Start implements [Launcher]. The process inherits /dev/null, the log file twice,
// the spec's files and no other file descriptor.
func (s *Systemd) Start(ctx context.Context, spec Spec) (Process, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p, err := s.start(ctx, &spec)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	return p, nil
}

func (s *Systemd) start(ctx context.Context, spec *Spec) (*process, error) {
	program, err := spec.check()
	if err != nil {
		return nil, err
	}
	unit, err := UnitName(spec.Name)
	if err != nil {
		return nil, err
	}
	h := handover{
		Version: handoverVersion, Program: program, Argv: spec.Argv, Env: spec.environ(), Dir: spec.Dir, Files: len(spec.Files),
	}
	message, err := h.marshal()
	if err != nil {
		return nil, err
	}
	log, err := openLog(spec.LogPath)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(ends[0])
	stdin := os.NewFile(uintptr(ends[1]), "standard input")
	defer stdin.Close()
	told, tells, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer told.Close()
	defer tells.Close()

	groups, err := groupsOf(spec.Needs.Devices)
	if err != nil {
		return nil, err
	}
	props, err := properties(spec, confinement{s.program, groups}, dbus.UnixFD(ends[1]))
	if err != nil {
		return nil, err
	}
	err = s.startUnit(ctx, unit, props)
	if errors.Is(err, ErrNoSystemd) && s.abandon(ctx, unit, spec.UUID) == nil {
		err = s.startUnit(ctx, unit, props) // systemd executed itself anew in the middle
	}
	if err != nil {
		return nil, err
	}
	stdin.Close() // what no process takes is lost with systemd's copy
	files := append([]*os.File{tells, log}, spec.Files...)
	p, err := s.handOver(ctx, unit, ends[0], message, files, told)
	if err != nil {
		err = s.explain(unit, err)
		clearing, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTimeout)
		defer cancel()
		return nil, errors.Join(err, s.clear(clearing, unit))
	}
	return p, nil
}

// startUnit starts the unit once no ended one of that name is left.
func (s *Systemd) startUnit(ctx context.Context, unit string, props []property) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := s.units.start(ctx, unit, props)
		if !errors.Is(err, errUnitExists) {
			return err
		}
		state, err := s.units.state(ctx, unit)
		if err != nil {
			return err
		}
		if !state.ended() {
			return fmt.Errorf("unit %s is %s, process %d: %w", unit, state.Sub, state.MainPID, ErrRuns)
		}
		if err := s.units.clear(ctx, unit); err != nil {
			return err
		}
		select {
		case <-time.After(pause): // systemd collects it
		case <-ctx.Done():
			return fmt.Errorf("clear unit %s: %w", unit, context.Cause(ctx))
		}
	}
}

// execPatience is how long a process may show no arguments: execve closes the
// descriptors that tell its caller of it before it puts them in place.
const execPatience = time.Second

// abandon clears away a unit whose start was not answered, if there is one. A unit
// that runs more than our waiting process is left alone: it is another's.
func (s *Systemd) abandon(ctx context.Context, unit, uuid string) error {
	state, err := s.units.state(ctx, unit)
	if err != nil || state.ended() {
		return err
	}
	if state.MainPID != 0 {
		cmdline, err := readSmall(procFile(int(state.MainPID), "cmdline"), maxCmdline)
		for end := time.Now().Add(execPatience); err == nil && len(cmdline) == 0 && time.Now().Before(end); { // in the middle of execve
			time.Sleep(time.Millisecond)
			cmdline, err = readSmall(procFile(int(state.MainPID), "cmdline"), maxCmdline)
		}
		argv := splitArgs(cmdline)
		if err == nil && (len(argv) != 4 || argv[1] != "exec" || argv[3] != uuid) {
			return ErrRuns
		}
	}
	return s.clear(ctx, unit)
}

// handOver sends what the unit's process is to become and waits until it has.
func (s *Systemd) handOver(ctx context.Context, unit string, socket int, message []byte, files []*os.File, told *os.File) (*process, error) {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	err := unix.Sendmsg(socket, message, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil, io.ErrUnexpectedEOF // the unit has failed already
	}
	if err != nil {
		return nil, fmt.Errorf("hand over to unit %s: %w", unit, os.NewSyscallError("sendmsg", err))
	}
	files[0].Close() // the report pipe's end: so it ends with the process's
	stop := context.AfterFunc(ctx, func() { told.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(told, maxReport+1))
	if err != nil {
		return nil, fmt.Errorf("wait for unit %s: %w", unit, errors.Join(context.Cause(ctx), err))
	}
	pid, invocation, err := parseReport(text)
	if err != nil {
		return nil, fmt.Errorf("unit %s: %w", unit, err)
	}
	id := Identity{PID: pid, Unit: unit, Invocation: invocation}
	p, err := watch(id, s.units.holds, func() Exit { return s.result(id) })
	if errors.Is(err, ErrGone) {
		exit := s.result(id)
		if _, e := readStat(pid); exit.Known || errors.Is(e, ErrGone) { // ended already
			return endedProcess(id, exit), nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("unit %s: %w", unit, err)
	}
	return p, nil
}

// explain adds what systemd knows of a unit that failed before it had a program.
func (s *Systemd) explain(unit string, err error) error {
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), resultTimeout)
	defer cancel()
	state, failure := s.settled(ctx, unit, nil)
	if failure != nil {
		return fmt.Errorf("unit %s failed: %w", unit, failure)
	}
	return fmt.Errorf("unit %s failed: %s: see journalctl -u %s", unit, state.why(), unit)
}

// Adopt implements [Launcher].
func (s *Systemd) Adopt(ctx context.Context, id Identity) (Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("adopt process %d: %w", id.PID, err)
	}
	if id.Unit == "" {
		return Direct{}.Adopt(ctx, id)
	}
	p, err := adopt(id, s.units.holds, func() Exit { return s.result(id) })
	if errors.Is(err, ErrGone) {
		if exit := s.result(id); exit.Known {
			err = &EndedError{exit}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("adopt process of unit %s: %w", id.Unit, err)
	}
	return p, nil
}

// FindOrphans implements [Launcher].
func (s *Systemd) FindOrphans(ctx context.Context, uuid string) ([]Process, error) {
	found, err := Direct{}.FindOrphans(ctx, uuid) // of the time before
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, clearTimeout)
	defer cancel()
	units, err := s.units.list(ctx, unitPrefix+"*"+unitSuffix)
	if err != nil {
		return found, fmt.Errorf("find units of %s: %w", uuid, err)
	}
	for _, u := range units {
		if !describes(u.Description, uuid) {
			continue
		}
		p, err := s.orphan(ctx, u.Name)
		if err != nil {
			return found, fmt.Errorf("find units of %s: %w", uuid, err)
		}
		if p != nil {
			found = append(found, p)
		}
	}
	return found, nil
}

// orphan takes over the main process of a unit; one without is cleared away.
func (s *Systemd) orphan(ctx context.Context, unit string) (Process, error) {
	state, err := s.units.state(ctx, unit)
	if err != nil {
		return nil, err
	}
	if state.MainPID > 1 && !state.ended() {
		id := Identity{PID: int(state.MainPID), Unit: unit, Invocation: state.Invocation}
		p, err := watch(id, s.units.holds, func() Exit { return s.result(id) })
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, ErrGone) {
			return nil, err
		}
	}
	return nil, s.clear(ctx, unit)
}

// result is how the process of a unit ended; the unit is cleared away then. It is
// the zero value if systemd does not tell, or tells of another run of the unit.
func (s *Systemd) result(id Identity) Exit {
	ctx, cancel := context.WithTimeout(context.Background(), resultTimeout)
	defer cancel()
	state, err := s.settled(ctx, id.Unit, func(u *unitState) bool {
		return u.Invocation != id.Invocation || u.MainPID != 0 && int(u.MainPID) != id.PID
	})
	if err != nil {
		s.log.Warn("read how a unit ended", "unit", id.Unit, "error", err)
		return Exit{}
	}
	if state.Invocation != id.Invocation || !state.ended() {
		return Exit{}
	}
	if err := s.units.clear(ctx, id.Unit); err != nil {
		s.log.Warn("clear unit", "unit", id.Unit, "error", err)
	}
	return state.exit()
}

// settled waits until systemd knows that a unit's process has ended (it is told by
// the kernel just as we are) or until the unit is of no interest.
func (s *Systemd) settled(ctx context.Context, unit string, foreign func(*unitState) bool) (*unitState, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		state, err := s.units.state(ctx, unit)
		if err != nil || state.ended() || foreign != nil && foreign(state) {
			return state, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the end of unit %s, which is %s: %w", unit, state.Sub, context.Cause(ctx))
		}
	}
}

// clear ends a unit and waits until it is gone.
func (s *Systemd) clear(ctx context.Context, unit string) error {
	if err := s.units.clear(ctx, unit); err != nil {
		return fmt.Errorf("clear unit %s: %w", unit, err)
	}
	_, err := s.settled(ctx, unit, nil)
	return errors.Join(err, s.units.clear(ctx, unit)) // what stopping made of it
}

// groupsOf lists the groups, by number, that may open device files which not
// everybody may. Root's own is not given away.
func groupsOf(devices []string) ([]string, error) {
	var groups []string
	for _, d := range devices {
		info, err := os.Stat(d)
		if err != nil {
			return nil, fmt.Errorf("look at device: %w", err)
		}
		st := info.Sys().(*syscall.Stat_t)
		switch {
		case info.Mode()&os.ModeCharDevice == 0:
			return nil, fmt.Errorf("%s is no device", d)
		case info.Mode().Perm()&0o006 == 0o006:
		case info.Mode().Perm()&0o060 == 0o060 && st.Gid != 0:
			groups = append(groups, fmt.Sprint(st.Gid))
		default:
			return nil, fmt.Errorf("%s has mode %04o and group %d: a guest's own user can't open it; give it to the group kvm (udev does, with the rules that packages of QEMU or systemd bring)", d, info.Mode().Perm(), st.Gid)
		}
	}
	return groups, nil
}

func signal(n int32) syscall.Signal { return syscall.Signal(n) }
