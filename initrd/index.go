package initrd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// Limits of depmod's files. Debian's kernel has 2,243 modules, 300 KB of
// modules.dep and 670 KB of modules.alias.
const (
	maxIndex = 32 << 20 // bytes of a file
	maxLine  = 256 << 10
	maxLines = 1 << 18
)

// ErrTree is wrapped by errors about a folder that is no kernel's module tree,
// or whose index files contradict it.
var ErrTree = errors.New("not a usable module tree")

// index is what depmod knows about a kernel's modules. Names are normal ones.
// Where there is no modules.dep, as in packages, needs and the maps below it
// are nil, and the modules are asked themselves.
type index struct {
	path    map[string]string   // module's file in the tree
	needs   map[string][]string // names that modules.dep lists, all of them, the last to be loaded first
	pre     map[string][]string // soft dependencies: names or aliases
	post    map[string][]string
	alias   map[string][]string // modules that provide an exact alias
	builtin map[string]bool
}

// normal is the form in which the kernel compares module names.
func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleName splits a module's path in the tree into its file's stem, such as
// "dm-crypt", and its compression suffix.
func moduleName(file string) (stem, suffix string, ok bool) {
	if !fs.ValidPath(file) {
		return "", "", false
	}
	stem, suffix, ok = strings.Cut(path.Base(file), ".ko")
	if !ok || !plainName(stem) {
		return "", "", false
	}
	switch suffix {
	case "", ".gz", ".xz", ".zst":
		return stem, suffix, true
	}
	return "", "", false
}

// plainName tells what a module may be called; kernel names are C identifiers
// with dashes allowed.
func plainName(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// parseDep reads modules.dep: "FILE: FILE...", for each module all that it
// needs, directly or not.
func (x *index) parseDep(r io.Reader) error {
	x.needs = make(map[string][]string)
	return lines(r, func(line string) error {
		file, rest, ok := strings.Cut(line, ":")
		if !ok {
			return fmt.Errorf("%q is no module's file", file)
		}
		name, err := x.add(file)
		if err != nil {
			return err
		}
		for _, need := range strings.Fields(rest) {
			stem, _, valid := moduleName(need)
			if !valid {
				return fmt.Errorf("%q is no module's file", need)
			}
			x.needs[name] = append(x.needs[name], normal(stem))
		}
		return nil
	})
}

// add notes a module's file.
func (x *index) add(file string) (name string, err error) {
	stem, _, valid := moduleName(file)
	if !valid {
		return "", fmt.Errorf("%q is no module's file", file)
	}
	name = normal(stem)
	if x.path[name] != "" {
		return "", fmt.Errorf("module %s is listed twice", name)
	}
	x.path[name] = file
	return name, nil
}

// parseSoftdep reads modules.softdep: "softdep NAME pre: NAME... post: NAME...".
// Names before either word mean nothing to modprobe, nor here.
func (x *index) parseSoftdep(r io.Reader) error {
	x.pre, x.post = make(map[string][]string), make(map[string][]string)
	return lines(r, func(line string) error {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "softdep" {
			return fmt.Errorf("%q is no soft dependency", line)
		}
		name := normal(words[1])
		pre, post := softWords(words[2:])
		x.pre[name], x.post[name] = append(x.pre[name], pre...), append(x.post[name], post...)
		return nil
	})
}

// softWords reads the words "pre: NAME... post: NAME...".
func softWords(words []string) (pre, post []string) {
	var list *[]string
	for _, word := range words {
		switch {
		case word == "pre:":
			list = &pre
		case word == "post:":
			list = &post
		case list != nil:
			*list = append(*list, normal(word))
		}
	}
	return pre, post
}

// exactAlias tells aliases without wild cards.
func exactAlias(s string) bool { return !strings.ContainsAny(s, "*?[") }

// parseAlias reads modules.alias: "alias PATTERN NAME". Patterns with wild
// cards name devices; soft dependencies name none, so they are passed over.
func (x *index) parseAlias(r io.Reader) error {
	x.alias = make(map[string][]string)
	return lines(r, func(line string) error {
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != "alias" {
			return fmt.Errorf("%q is no alias", line)
		}
		if exactAlias(words[1]) {
			alias := normal(words[1])
			x.alias[alias] = append(x.alias[alias], normal(words[2]))
		}
		return nil
	})
}

// parseBuiltin reads modules.builtin: a FILE a line, of modules that are part
// of the kernel.
func (x *index) parseBuiltin(r io.Reader) error {
	return lines(r, func(line string) error {
		stem, _, valid := moduleName(line)
		if !valid {
			return fmt.Errorf("%q is no module's file", line)
		}
		x.builtin[normal(stem)] = true
		return nil
	})
}

// lines calls each for every line but blank ones and comments.
func lines(r io.Reader, each func(string) error) error {
	limited := &io.LimitedReader{R: r, N: maxIndex + 1}
	s := bufio.NewScanner(limited)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	n := 0
	for s.Scan() {
		if limited.N == 0 {
			break
		}
		if n++; n > maxLines {
			return fmt.Errorf("more than %d lines", maxLines)
		}
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := each(line); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if limited.N == 0 {
		return fmt.Errorf("longer than %d bytes", maxIndex)
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("line %d: %w", n+1, err)
	}
	return nil
}

func newIndex() *index {
	return &index{path: make(map[string]string), builtin: make(map[string]bool)}
}
