package initrd

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrNoModule is wrapped by the error about a wanted module that the kernel
// has neither as a file nor built in.
var ErrNoModule = errors.New("no such module")

// Module is a kernel module to load.
type Module struct {
	File     string // stem of its file's name, such as "dm-crypt"
	Path     string // in the tree
	Optional bool   // the kernel may refuse it with ENODEV
}

// Closure returns the wanted modules and all they need, each once, in load
// order.
//
// What modules.dep lists must be there. Soft dependencies (ext4 and jbd2 find
// crc32c only through one) are followed where the kernel has them, through
// modules.alias too, and are optional, as they are to modprobe.
func (t *Tree) Closure(want []Wanted) ([]Module, error) {
	c := &closure{index: t.index, at: make(map[string]int), dropped: make(map[string]bool)}
	for _, w := range want {
		name := normal(w.Name)
		if c.index.builtin[name] && c.index.path[name] == "" {
			continue
		}
		if c.index.path[name] == "" {
			if w.Optional {
				continue
			}
			return nil, fmt.Errorf("find module %s: %w: kernel %s has it neither as a file nor built in", w.Name, ErrNoModule, t.Release)
		}
		if err := c.visit(name, w.Optional); err != nil {
			return nil, fmt.Errorf("find module %s: %w", w.Name, err)
		}
	}
	return c.order, nil
}

// closure is a depth-first walk. at holds 1 + a module's place in order, or
// visiting while what it needs is walked.
type closure struct {
	index   *index
	at      map[string]int
	order   []Module
	dropped map[string]bool // soft dependencies that failed
}

const visiting = -1

// visit appends what a module needs, then the module.
func (c *closure) visit(name string, optional bool) error {
	switch at := c.at[name]; {
	case at == visiting:
		return fmt.Errorf("%w: %s needs itself", ErrTree, name)
	case at > 0 && (optional || !c.order[at-1].Optional):
		return nil
	}
	// A module that was optional until now and is needed after all is walked
	// once more, to make what it needs needed too.
	file := c.index.path[name]
	if file == "" {
		if c.index.builtin[name] {
			return nil
		}
		return fmt.Errorf("%w: %s, which modules.dep names but does not list", ErrTree, name)
	}
	was := c.at[name]
	c.at[name] = visiting
	for _, soft := range c.index.pre[name] {
		c.soft(soft)
	}
	for _, need := range slices.Backward(c.index.needs[name]) {
		if err := c.visit(need, optional); err != nil {
			return err
		}
	}
	if was > 0 {
		c.order[was-1].Optional = false
		c.at[name] = was
		return nil
	}
	stem, _, _ := moduleName(file)
	c.order = append(c.order, Module{File: stem, Path: file, Optional: optional})
	c.at[name] = len(c.order)
	for _, soft := range c.index.post[name] {
		c.soft(soft)
	}
	return nil
}

// soft follows a soft dependency, a module's name or an alias of several. It is
// a wish: what can't be had, or leads back to a module in hand, is left out,
// with all that was walked for it.
func (c *closure) soft(name string) {
	names := []string{name}
	if c.index.path[name] == "" {
		names = c.index.alias[name]
	}
	for _, n := range names {
		if c.index.path[n] == "" || c.at[n] == visiting || c.dropped[n] {
			continue
		}
		at, length := maps.Clone(c.at), len(c.order)
		if err := c.visit(n, true); err != nil {
			c.at, c.order = at, c.order[:length]
			c.dropped[n] = true // once: a tree of failures must not be walked again and again
		}
	}
}
