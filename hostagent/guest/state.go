package guest

import (
	"errors"
	"fmt"
	"slices"
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
)

// next lists the transitions that there are.
//
//	created ──▶ starting ──▶ running ──▶ ready ──▶ stopping ──▶ stopped
//	               ▲ │ │        │ │        │ │         │           │
//	               │ │ └────────┼─┴────────┼─┴──▶ stopped          │
//	               │ └──────────┴──────────┴──────────┴──▶ failed  │
//	               └───────────────────────────────────────┴───────┘
var next = map[State][]State{
	Created:  {Starting},
	Starting: {Running, Stopped, Failed},
	Running:  {Ready, Stopping, Stopped, Failed},
	Ready:    {Starting, Stopping, Stopped, Failed}, // starting: the guest rebooted
	Stopping: {Stopped, Failed},
	Stopped:  {Starting},
	Failed:   {Starting},
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
