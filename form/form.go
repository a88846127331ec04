// Package form says what texts from outside may be that become names of files,
// units, devices or options.
package form

import (
	"regexp"
	"sync"
)

// Form is what a text may be. A length beside the expression is cheaper than one
// in it: a repeat of up to 62 is compiled to 62 steps, which take tens of KiB and
// half a millisecond. What no command asks for is not compiled.
type Form struct {
	max int
	exp func() *regexp.Regexp
}

func of(max int, exp string) Form {
	return Form{max, sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(exp) })}
}

// MatchString tells whether a text has the form.
func (f Form) MatchString(s string) bool { return len(s) <= f.max && f.exp().MatchString(s) }

// Forms.
var (
	Name     = of(63, `^[a-z0-9][a-z0-9-]*$`)           // of a guest or workload
	Request  = of(64, `^[a-zA-Z0-9-]*$`)                // id of a request, "" for none
	File     = of(100, `^[a-zA-Z0-9][a-zA-Z0-9._-]*$`)  // plain name of a file
	Serial   = of(20, `^[a-zA-Z0-9_-][a-zA-Z0-9._-]*$`) // of a disk
	UUID     = of(36, `^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	Hex      = of(64, `^[0-9a-f]*$`)                           // up to 32 bytes
	MAC      = of(17, `^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$`) // no group address
	Tap      = of(15, `^[a-zA-Z0-9_][a-zA-Z0-9._-]*$`)         // IFNAMSIZ less NUL
	Loadparm = of(8, `^[A-Z0-9.]*$`)
)
