package store

import "slices"

// Clone is a copy that shares nothing that can be changed with the guest.
func (g *Guest) Clone() *Guest {
	c := *g
	c.Disks, c.Stages = slices.Clone(g.Disks), slices.Clone(g.Stages)
	c.Restarts, c.Networks = slices.Clone(g.Restarts), slices.Clone(g.Networks)
	for i := range c.Networks {
		c.Networks[i].Publish = slices.Clone(c.Networks[i].Publish)
	}
	c.Exit = copied(g.Exit)
	c.Process, c.Failure = copied(g.Process), copied(g.Failure)
	c.Restart, c.Resources, c.Move = copied(g.Restart), copied(g.Resources), copied(g.Move)
	return &c
}

func copied[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}
