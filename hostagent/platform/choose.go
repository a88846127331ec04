package platform

import "fmt"

// Choice is what an operator asks for.
type Choice struct {
	Name         string // NameSE or NameEmulated; "" means NameSE: the emulation never starts unasked
	EmulatedHost string // folder of the emulated host
	Force        bool   // emulate even on a node that has Secure Execution
}

// New returns the platform that was asked for. It does not check the node.
func New(c Choice) (Platform, error) {
	switch c.Name {
	case "", NameSE:
		if c.EmulatedHost != "" || c.Force {
			return nil, fmt.Errorf("choose platform: an emulated host is of use with --platform %s alone", NameEmulated)
		}
		return SE{}, nil
	case NameEmulated:
		return Emulated{HostDir: c.EmulatedHost, Force: c.Force}, nil
	}
	return nil, fmt.Errorf("choose platform: %q is neither %s nor %s", c.Name, NameSE, NameEmulated)
}
