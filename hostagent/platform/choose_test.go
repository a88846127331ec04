package platform

import "testing"

func TestNew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		choice Choice
		want   Platform // nil: refused
	}{
		{Choice{}, SE{}},
		{Choice{Name: "se"}, SE{}},
		{Choice{Name: "emulated", EmulatedHost: "/h"}, Emulated{HostDir: "/h"}},
		{Choice{Name: "emulated", EmulatedHost: "/h", Force: true}, Emulated{HostDir: "/h", Force: true}},
		{Choice{EmulatedHost: "/h"}, nil},
		{Choice{Name: "se", Force: true}, nil},
		{Choice{Name: "Emulated", EmulatedHost: "/h"}, nil},
		{Choice{Name: "kvm"}, nil},
	} {
		got, err := New(c.choice)
		if (err != nil) != (c.want == nil) || (got == nil) != (c.want == nil) {
			t.Errorf("New(%+v) = %+v, %v", c.choice, got, err)
			continue
		}
		if e, ok := c.want.(Emulated); ok {
			g := got.(Emulated)
			if g.HostDir != e.HostDir || g.Force != e.Force {
				t.Errorf("New(%+v) = %+v", c.choice, g)
			}
		} else if got != nil && got.Name() != c.want.Name() {
			t.Errorf("New(%+v) = %+v", c.choice, got)
		}
	}
}
