package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Verdict is whether a kernel can be an SE guest.
type Verdict int

// Verdicts.
const (
	Unknown Verdict = iota // nothing says so: warn
	Can
	Cannot // refuse
)

// String returns "unknown", "yes" or "no".
func (v Verdict) String() string { return [...]string{"unknown", "yes", "no"}[v] }

// ErrNotGuest is wrapped by the error about a kernel that can't be an SE guest.
var ErrNotGuest = errors.New("kernel can't be a Secure Execution guest")

// guestOption made a kernel able to be a protected guest. Linux 6.10 dropped
// the option and builds its code always.
const guestOption = "CONFIG_PROTECTED_VIRTUALIZATION_GUEST"

const alwaysMajor, alwaysMinor = 6, 10

// maxConfig bounds a kernel's configuration, in bytes. Debian's has 160 KB.
const maxConfig = 4 << 20

// Guest says whether the kernel can be an SE guest, and why, in words that
// complete "because".
func (k *Kernel) Guest() (Verdict, string) {
	if atLeast(k.Release, alwaysMajor, alwaysMinor) {
		return Can, fmt.Sprintf("every s390x kernel since Linux %d.%d can", alwaysMajor, alwaysMinor)
	}
	config, from := k.config()
	switch {
	case config == nil && k.Release == "":
		return Unknown, fmt.Sprintf("the image tells neither its release nor its configuration; before Linux %d.%d it needs %s=y", alwaysMajor, alwaysMinor, guestOption)
	case config == nil:
		return Unknown, fmt.Sprintf("kernel %s is older than Linux %d.%d and its configuration is neither beside it nor in it; it needs %s=y", k.Release, alwaysMajor, alwaysMinor, guestOption)
	case option(config, guestOption):
		return Can, fmt.Sprintf("%s=y in %s", guestOption, from)
	}
	return Cannot, fmt.Sprintf("%s is not set in %s, and only since Linux %d.%d every s390x kernel can", guestOption, from, alwaysMajor, alwaysMinor)
}

// config is the kernel's configuration and where it is from; nil: unknown.
func (k *Kernel) config() (text []byte, from string) {
	if k.Config != nil {
		return k.Config, k.ConfigFrom
	}
	return embeddedConfig(k.Image), "the image"
}

// Lacks tells whether the kernel is known to be built without an option, such
// as CONFIG_SWAP, that is never a module.
func (k *Kernel) Lacks(name string) bool {
	config, _ := k.config()
	return config != nil && !option(config, name)
}

// CheckGuest refuses a kernel that can't be an SE guest with ErrNotGuest. A
// kernel of which nothing is known passes; Guest gives the words to warn with.
func (k *Kernel) CheckGuest() error {
	if v, why := k.Guest(); v == Cannot {
		return fmt.Errorf("check kernel %s: %w: %s", k.Release, ErrNotGuest, why)
	}
	return nil
}

// atLeast compares a release such as "6.12.95+deb12-s390x" with a version.
// Distributions' older releases with newer code inside are what configurations
// are for.
func atLeast(release string, major, minor int) bool {
	a, rest, ok := strings.Cut(release, ".")
	if !ok {
		return false
	}
	if end := strings.IndexFunc(rest, func(c rune) bool { return c < '0' || c > '9' }); end >= 0 {
		rest = rest[:end]
	}
	x, err1 := strconv.Atoi(a)
	y, err2 := strconv.Atoi(rest)
	return err1 == nil && err2 == nil && (x > major || x == major && y >= minor)
}

// isConfig tells a configuration of an s390x kernel.
func isConfig(text []byte) bool { return len(text) <= maxConfig && option(text, "CONFIG_S390") }

// option tells an option that is built in.
func option(config []byte, name string) bool {
	for line := range bytes.Lines(config) {
		if string(bytes.TrimSpace(line)) == name+"=y" {
			return true
		}
	}
	return false
}
