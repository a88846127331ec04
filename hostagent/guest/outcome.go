package guest

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/hostagent/launch"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/qemu"
)

// event keeps what QEMU says of its end.
func (l *life) event(e qemu.Event) {
	if words, ok := platform.PanicWords(e); ok {
		l.panics = words
	}
	if e.Name == "SHUTDOWN" {
		var data struct {
			Reason string `json:"reason"`
		}
		if json.Unmarshal(e.Data, &data) == nil {
			l.reason = data.Reason
		}
	}
}

// drain takes what was said before the process's end: it closed both connections.
// What somebody ordered needs no reason.
func (l *life) drain(events <-chan qemu.Event) {
	if l.aborted.Load() {
		return
	}
	patience := time.After(drainPatience)
	for events != nil {
		select {
		case e, open := <-events:
			if !open {
				events = nil
				continue
			}
			l.event(e)
		case <-patience:
			return
		}
	}
	// FAIL comes just before the power-off.
	for end := time.Now().Add(drainPatience); time.Now().Before(end); {
		select {
		case m := <-l.port.messages:
			l.message(m)
		default:
			if l.port.connection() == nil && len(l.port.messages) == 0 {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// finish decides what the process's end means.
func (l *life) finish() {
	name, console := l.name(), l.g.ConsolePath()
	var f *fault.Error
	switch {
	case l.failed == string(fault.NotReady):
		f = fault.New(fault.NotReady, "%s", withTail(fmt.Sprintf("guest %s was not ready within %s", name, l.g.fleet.ReadyTimeout), "its console's last lines", console))
	case l.failed != "":
		f = guestFault(name, l.failed)
	case l.aborted.Load():
	case l.panics == "" && l.reason == "guest-panic":
		l.panics = "its kernel panicked"
		fallthrough
	case l.panics != "":
		f = fault.New(fault.GuestPanic, "%s", withTail(fmt.Sprintf("guest %s: %s", name, l.panics), "its console's last lines", console))
	case l.reason == "guest-reset" && l.ready:
		l.reboot()
		return
	case l.reason == "guest-shutdown" && l.exit != nil && *l.exit != 0:
		f = fault.New(fault.Workload, "%s", withTail(fmt.Sprintf("guest %s: its program ended with exit status %d", name, *l.exit), "its console's last lines", console))
	case l.reason == "guest-shutdown" && (l.ready || l.exit != nil):
	case l.reason == "guest-shutdown" || l.reason == "guest-reset":
		f = fault.New(fault.EndedEarly, "%s", withTail(fmt.Sprintf("guest %s ended before it was ready", name), "its console's last lines", console))
	default:
		f = fault.New(diedCode(l.proc.Exit()), "%s", withTail(fmt.Sprintf("QEMU of guest %s ended: %s", name, l.proc.Exit()), "its last words", filepath.Join(l.g.dir(), qemuLog)))
	}
	l.report(l.g.end(f, l.aborted.Load()))
}

// reboot follows a guest's own: a fresh QEMU, and the same checks again.
func (l *life) reboot() {
	next := newLife(l.g) // takes orders from now on, begins once this life's files are gone
	if err := l.g.apply(decision, next, moving(Starting, fresh)); err != nil {
		l.report(l.g.end(fault.As(err), l.aborted.Load()))
		return
	}
	l.next = next
}

// diedCode is the code of a QEMU that ended against everybody's will.
func diedCode(exit launch.Exit) fault.Code {
	if exit.OOM {
		return fault.OutOfMemory
	}
	return fault.QEMUDied
}
