// Package launch starts processes that outlive hostagent, finds them again and
// tells when and how they end.
//
// A [Launcher] decides where a process lives: [Systemd] makes it the main process
// of a unit of its own, confined and bounded; [Direct] makes it a child of
// hostagent in a session of its own. What is known of a process is its
// [Identity], which hostagent stores: it stays true after a restart of hostagent
// and cannot be confused with a later process of the same number.
package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
)

// Errors that callers branch on.
var (
	// ErrGone says that the process of an Identity no longer exists: it ended, its
	// number belongs to another process now, or the machine was booted since.
	ErrGone = errors.New("process is gone")
	// ErrRuns says that a process of this guest runs already.
	ErrRuns = errors.New("it runs already")
	// ErrNoSystemd says that the service manager can't be reached.
	ErrNoSystemd = errors.New("no systemd to start units with")
)

// EndedError is an ErrGone of a process whose exit was kept.
type EndedError struct{ Exit Exit }

// Error tells how the process ended.
func (e *EndedError) Error() string { return "process has ended: " + e.Exit.String() }

// Unwrap returns ErrGone.
func (e *EndedError) Unwrap() error { return ErrGone }

// Launcher starts processes and takes over those that an earlier hostagent left.
type Launcher interface {
	// Start runs a program. The context bounds the start, not the process.
	Start(ctx context.Context, spec Spec) (Process, error)

	// Adopt takes over a running process. It returns an error that wraps
	// ErrGone unless exactly that process still runs; an *EndedError if the
	// launcher knows how it ended.
	Adopt(ctx context.Context, id Identity) (Process, error)

	// FindOrphans takes over every process that was started for this UUID: what
	// a hostagent left that was killed between the start and storing the
	// Identity. What else such a start left is cleared away.
	FindOrphans(ctx context.Context, uuid string) ([]Process, error)
}

// Spec says what to start.
type Spec struct {
	Name string   // guest's name, for messages and unit names
	UUID string   // guest's UUID; must be in Argv as the argument after "-uuid"
	Argv []string // Argv[0] is the program: a path, or a name looked up in PATH
	Dir  string   // working directory
	// LogPath is the file that standard output and error are appended to, mode
	// 0600. Standard input is /dev/null.
	LogPath string
	// Env is the whole environment. nil means PATH alone: nothing of
	// hostagent's own (NOTIFY_SOCKET, LISTEN_FDS) leaks.
	Env []string
	// Files are the process's descriptors from 3 on, in this order. They stay
	// the caller's, which closes them after Start.
	Files []*os.File
	// MemoryBytes is what the process may take, and Resources its share of the
	// machine, where the launcher can set bounds.
	MemoryBytes int64
	Resources   Resources
	Needs       Needs
}

// Needs is what a process must be let do. A launcher that confines denies all
// else.
type Needs struct {
	Devices    []string // device files that it opens by path, such as /dev/kvm
	Network    bool     // sockets of the machine's own network
	Translates bool     // it makes code and runs it, as QEMU does without KVM
}

// check refuses what no launcher can start, and returns the program's path.
func (s *Spec) check() (string, error) {
	if len(s.Argv) == 0 {
		return "", errors.New("no program")
	}
	if s.UUID != "" && !slices.Equal(uuids(s.Argv), []string{s.UUID}) {
		return "", fmt.Errorf("arguments do not name UUID %s exactly once: FindOrphans could not find the process", s.UUID)
	}
	return exec.LookPath(s.Argv[0])
}

// environ is the process's environment.
func (s *Spec) environ() []string {
	if s.Env == nil {
		return []string{"PATH=" + os.Getenv("PATH")}
	}
	return s.Env
}

// Resources is a process's share of the machine; 0 is the launcher's default.
type Resources struct {
	CPUWeight  uint32 // 1 to 10000
	CPUPercent uint32 // of one CPU
	IOWeight   uint32 // 1 to 10000
}

// Identity names one process for good.
type Identity struct {
	PID        int    `json:"pid"`
	StartTicks uint64 `json:"start_ticks"` // field 22 of /proc/PID/stat: clock ticks since boot
	BootID     string `json:"boot_id"`     // /proc/sys/kernel/random/boot_id
	// Unit is the unit whose main process it is, and Invocation which run of it;
	// "" for a child of hostagent.
	Unit       string `json:"unit,omitempty"`
	Invocation string `json:"invocation,omitempty"`
}

// process is the identity without its unit.
func (id Identity) process() Identity {
	id.Unit, id.Invocation = "", ""
	return id
}

// Process is a started or adopted process.
type Process interface {
	Identity() Identity

	// Exited is closed once the process has ended and Exit is valid.
	Exited() <-chan struct{}

	// Exit tells how the process ended; the zero value before that.
	Exit() Exit

	// Kill ends the process with SIGKILL and waits until it has ended or the
	// context is done. Killing an ended process is no error.
	Kill(ctx context.Context) error
}

// Exit is how a process ended.
type Exit struct {
	Code   int            // exit status if it exited by itself
	Signal syscall.Signal // signal that ended it, or 0
	// Known is false for an adopted process that has no unit: the kernel tells
	// only a parent.
	Known bool
	// OOM tells that it was killed for want of memory, its unit's or the
	// machine's; only a unit's end says so.
	OOM bool
}

// String is a phrase for messages, such as "exit status 1".
func (e Exit) String() string {
	switch {
	case !e.Known:
		return "ended, exit status unknown"
	case e.OOM:
		return "killed for want of memory"
	case e.Signal != 0:
		return fmt.Sprintf("killed by signal %d (%s)", int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}
