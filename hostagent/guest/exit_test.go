package guest

import (
	"testing"

	"github.com/secexec/secexec/hostagent/fault"
)

// What the guest says of its program's end decides between stopped and failed.
func TestExitStatus(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		lines  []string
		state  State
		exit   int // -1: not known
		code   fault.Code
		health bool
	}{
		{[]string{"STAGE ready 1", "EXIT 0"}, Stopped, 0, "", true},
		{[]string{"STAGE running 1", "EXIT 0"}, Stopped, 0, "", true}, // done before it was to be ready
		{[]string{"STAGE ready 1", "UNHEALTHY", "EXIT 137"}, Failed, 137, fault.Workload, false},
		{[]string{"STAGE running 1", "EXIT 1", "EXIT 0"}, Failed, 1, fault.Workload, true},
		{[]string{"STAGE ready 1", "UNHEALTHY", "HEALTHY", "EXIT 256"}, Stopped, -1, "", true},
		{[]string{"STAGE running 1"}, Failed, -1, fault.EndedEarly, true},
	} {
		r := newRoom(t, then("guest-shutdown", row.lines...))
		_, g := inRoom(t, r, kept(t, stored("g", Stopped, 0)), nil)
		if err := g.Start(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		rec := becomes(t, g, row.state)
		exit, code := -1, fault.Code("")
		if rec.Exit != nil {
			exit = int(*rec.Exit)
		}
		if rec.Failure != nil {
			code = fault.Code(rec.Failure.Code)
		}
		if exit != row.exit || code != row.code || rec.Unhealthy == row.health {
			t.Errorf("%q: exit %d, failure %q, unhealthy %v", row.lines, exit, code, rec.Unhealthy)
		}
	}
}
