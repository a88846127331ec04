package guest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/secexec/secexec/hostagent/fault"
)

// State is where a guest is in its life.
type State string

// States. A guest runs a QEMU process in starting, running, ready and stopping.
const (
	Created  State = "created"
	Starting State = "starting" // up to the ultravisor's decision
	Running  State = "running"  // unpacked, not ready yet
	Ready    State = "ready"
	Stopping State = "stopping" // asked to power off
	Stopped  State = "stopped"
	Failed   State = "failed"
	Waiting  State = "waiting" // ended, and to be started again
)

// States lists all states.
var States = []State{Created, Starting, Running, Ready, Stopping, Stopped, Failed, Waiting}

// next lists the transitions that there are.
//
//	created ──▶ starting ──▶ running ──▶ ready ──▶ stopping ──▶ stopped
//	               ▲ │ │        │ │        │ │         │           │
//	               │ │ └────────┼─┴────────┼─┴──▶ stopped          │
//	               │ └──────────┴──────────┴──────────┴──▶ failed  │
//	               └───────────────────────────────────────┴───────┘
//
// Where a run ends it may also lead to waiting, by the guest's restart policy,
// and from there to starting, or to stopped when somebody calls the restart off.
// When the node was booted each state leads to waiting, for the guests that are
// to start then.
var next = map[State][]State{
	Created:  {Starting, Waiting},
	Starting: {Running, Stopped, Failed, Waiting},
	Running:  {Ready, Stopping, Stopped, Failed, Waiting},
	Ready:    {Starting, Stopping, Stopped, Failed, Waiting}, // starting: the guest rebooted
	Stopping: {Stopped, Failed, Waiting},
	Stopped:  {Starting, Waiting},
	Failed:   {Starting, Waiting},
	Waiting:  {Starting, Stopped, Failed, Waiting}, // waiting: in its turn instead
}

// Live tells whether a QEMU process belongs to the state.
func (s State) Live() bool { return s == Starting || s == Running || s == Ready || s == Stopping }

// ErrTransition says that a state does not lead to another.
var ErrTransition = errors.New("transition not allowed")

// check allows or denies a transition.
func check(from, to State) error {
	if !slices.Contains(next[from], to) {
		return fmt.Errorf("%w: from %s to %s", ErrTransition, from, to)
	}
	return nil
}

// checkMove is check in words for callers.
func checkMove(name string, from, to State) error {
	if err := check(from, to); err != nil {
		return fault.New(fault.WrongState, "guest %s is %s: %w", name, from, err)
	}
	return nil
}
