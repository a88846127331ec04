package network

import (
	"slices"

	"github.com/secexec/secexec/proto/network"
	"github.com/secexec/secexec/sealed"
)

// described is what of a description a plan has no place for: ways of families
// whose gateway is not sealed.
type described struct {
	gateways []network.Gateway
	routes   []network.Route
}

// merge is the plan with what the host's description says beside it. What is
// sealed counts first, as it does with DHCP. Nothing is left to ask for then.
func merge(plan *sealed.Network, d *network.Description) (*sealed.Network, described) {
	m, ways := *plan, described{}
	m.Source = sealed.Static
	m.Addresses = slices.Concat(plan.Addresses, d.Addresses)
	m.Gateways = slices.Clone(plan.Gateways)
	for _, g := range d.Gateways {
		if !gateway(plan, g.Address.Is4()).IsValid() {
			m.Gateways = append(m.Gateways, g.Address)
			ways.gateways = append(ways.gateways, g)
		}
	}
	for _, r := range d.Routes {
		if !gateway(plan, r.To.Addr().Is4()).IsValid() {
			ways.routes = append(ways.routes, r)
		}
	}
	m.NameServers = slices.Concat(plan.NameServers, d.NameServers)
	if len(plan.Search) == 0 {
		m.Search = d.Search
	}
	if plan.MTU == 0 {
		m.MTU = d.MTU
	}
	return &m, ways
}
