package guest

import (
	"errors"
	"testing"
)

// All transitions, allowed and denied, against the picture in state.go.
func TestTransitions(t *testing.T) {
	t.Parallel()
	states := []State{Created, Starting, Running, Ready, Stopping, Stopped, Failed}
	allowed := map[[2]State]bool{
		{Created, Starting}: true,
		{Starting, Running}: true, {Starting, Stopped}: true, {Starting, Failed}: true,
		{Running, Ready}: true, {Running, Stopping}: true, {Running, Stopped}: true, {Running, Failed}: true,
		{Ready, Starting}: true, {Ready, Stopping}: true, {Ready, Stopped}: true, {Ready, Failed}: true,
		{Stopping, Stopped}: true, {Stopping, Failed}: true,
		{Stopped, Starting}: true, {Failed, Starting}: true,
	}
	for _, from := range states {
		for _, to := range states {
			err := check(from, to)
			if allowed[[2]State{from, to}] != (err == nil) || err != nil && !errors.Is(err, ErrTransition) {
				t.Errorf("%s to %s: %v", from, to, err)
			}
		}
		if err := check(deleted, from); err == nil {
			t.Errorf("a deleted guest can become %s", from)
		}
	}
}
