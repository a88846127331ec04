package initrd

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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
// What a module needs must be there. Soft dependencies (ext4 and jbd2 find
// crc32c only through one) are followed where the kernel has them, through
// aliases too, and are optional, as they are to modprobe.
func (t *Tree) Closure(want []Wanted) ([]Module, error) {
	c := &closure{tree: t, index: t.index, at: make(map[string]int), dropped: make(map[string]bool), info: make(map[string]*modinfo)}
	for _, w := range want {
		name := normal(w.Name)
		if c.index.builtin[name] && c.index.path[name] == "" {
			continue
		}
		if c.index.path[name] == "" {
			if w.Optional {
				continue
			}
			return nil, fmt.Errorf("find module %s: %w: kernel %s has it neither as a file nor built in", w, ErrNoModule, t.Release)
		}
		if err := c.visit(name, w.Optional); err != nil {
			return nil, fmt.Errorf("find module %s: kernel %s: %w", w, t.Release, err)
		}
	}
	return c.order, nil
}

// closure is a depth-first walk. at holds 1 + a module's place in order, or
// visiting while what it needs is walked.
type closure struct {
	tree    *Tree
	index   *index
	at      map[string]int
	order   []Module
	dropped map[string]bool     // soft dependencies that failed
	info    map[string]*modinfo // what modules said of themselves
	alias   map[string][]string // the same of aliases, once one was asked for
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
		return fmt.Errorf("%w: it needs %s, which is neither there nor built in", ErrTree, name)
	}
	info, err := c.ask(name)
	if err != nil {
		return err
	}
	was := c.at[name]
	c.at[name] = visiting
	for _, soft := range info.pre {
		c.soft(soft)
	}
	for _, need := range slices.Backward(info.needs) {
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
	for _, soft := range info.post {
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
		names = c.providers(name)
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

// ask says what a module needs: by depmod's files, or where one is not there
// by the module's own word.
func (c *closure) ask(name string) (*modinfo, error) {
	if info := c.info[name]; info != nil {
		return info, nil
	}
	info := &modinfo{needs: c.index.needs[name], pre: c.index.pre[name], post: c.index.post[name]}
	if c.index.needs == nil || c.index.pre == nil {
		content, err := c.tree.read(c.index.path[name])
		if err != nil {
			return nil, err
		}
		own, err := parseModinfo(content)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", c.index.path[name], err)
		}
		if c.index.needs == nil {
			info.needs = own.needs
		}
		if c.index.pre == nil {
			info.pre, info.post = own.pre, own.post
		}
		info.alias = own.alias
	}
	c.info[name] = info
	return info, nil
}

// providers returns the modules that have an exact alias, in the order of
// their files. Without modules.alias each module that could have it is read,
// which takes some seconds for a whole kernel; so ciphers, the only aliases
// that file systems ask for, are looked for among those only.
func (c *closure) providers(alias string) []string {
	if c.index.alias != nil {
		return c.index.alias[alias]
	}
	if c.alias == nil {
		c.alias = make(map[string][]string)
		for _, name := range slices.SortedFunc(maps.Keys(c.index.path), func(a, b string) int {
			return cmp.Compare(c.index.path[a], c.index.path[b])
		}) {
			if !slices.Contains(strings.Split(c.index.path[name], "/"), "crypto") {
				continue
			}
			content, err := c.tree.read(c.index.path[name])
			if err != nil {
				continue // whoever needs it will say so
			}
			info, err := parseModinfo(content)
			if err != nil {
				continue
			}
			for _, a := range info.alias {
				c.alias[a] = append(c.alias[a], name)
			}
		}
	}
	return c.alias[alias]
}
