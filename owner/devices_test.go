package owner

import (
	"testing"

	"github.com/secexec/secexec/sealed"
)

func TestDevices(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		devices  Devices
		workload *sealed.Workload
		network  bool
		refused  bool
	}{
		{"init", Devices{}, nil, true, false},
		{"init without", Devices{NoNetwork: true}, nil, false, false},
		{"workload", Devices{}, &sealed.Workload{Network: &sealed.Network{Source: sealed.DHCP}}, true, false},
		{"workload without", Devices{}, &sealed.Workload{}, false, false},
		{"workload without, said twice", Devices{NoNetwork: true}, &sealed.Workload{}, false, false},
		{"workload with both", Devices{NoNetwork: true}, &sealed.Workload{Network: &sealed.Network{Source: sealed.DHCP}}, true, true},
	} {
		if err := c.devices.check(c.workload); (err != nil) != c.refused {
			t.Errorf("%s: check: %v", c.name, err)
		}
		p := Plan{Devices: c.devices}
		if got := p.hasNetwork(c.workload); got != c.network {
			t.Errorf("%s: network %v, want %v", c.name, got, c.network)
		}
	}
}
