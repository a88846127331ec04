package owner

import (
	"fmt"
	"slices"

	"github.com/secexec/secexec/sealed"
)

// modes are the words for how a volume is protected, with what the mode does
// and what it does not do, for people.
var modes = map[sealed.Mode]struct{ word, limits string }{
	sealed.Crypt:     {"crypt", "nobody else reads it; the guest does not notice sectors that were changed or rolled back"},
	sealed.Integrity: {"crypt-integrity", "nobody else reads it; a changed sector is an I/O error; the guest does not notice sectors that were rolled back to what they once held"},
	sealed.Verity:    {"verity", "read-only; nobody else reads it, and the guest reads nothing but what was built"},
}

// ParseMode parses the word for a mode. "" is crypt.
func ParseMode(word string) (sealed.Mode, error) {
	for m, about := range modes {
		if word == about.word || word == "" && m == sealed.Crypt {
			return m, nil
		}
	}
	return 0, fmt.Errorf("mode %q is none of crypt, crypt-integrity and verity", word)
}

// ModeLimits returns a mode's word with what it protects from and what not.
func ModeLimits(m sealed.Mode) string { return modes[m].word + ": " + modes[m].limits }

// checkMode refuses what a mode can't do.
func (r *FileSystem) checkMode(what string) error {
	switch {
	case r.Grow && r.Mode != sealed.Crypt:
		return fmt.Errorf("plan %s: mode %s does not grow", what, modes[r.Mode].word)
	case r.FSType != "" && r.FSType != "ext4" && r.FSType != "erofs":
		return fmt.Errorf("plan %s: file system %q is neither ext4 nor erofs", what, r.FSType)
	case r.FSType == "erofs" && r.Source == "":
		return fmt.Errorf("plan %s: it has no source, and an erofs would stay empty", what)
	case r.Mode == sealed.Verity && r.Source == "":
		return fmt.Errorf("plan %s: it has no source, and mode verity would keep it empty", what)
	}
	return nil
}

// keySize is the size of a mode's volume keys in bytes.
func keySize(m sealed.Mode) int {
	if m == sealed.Integrity {
		return sealed.IntegrityKeySize
	}
	return sealed.KeySize
}

// modeWord is how about.json and fingerprints name a mode: "" is crypt, the only
// one that there was once.
func modeWord(m sealed.Mode) string {
	if m == sealed.Crypt {
		return ""
	}
	return modes[m].word
}

// has tells whether a volume of the plan has a mode.
func (p *Plan) has(m sealed.Mode) bool {
	return p.Root.Mode == m || p.Overlay != nil && p.Overlay.Mode == m || slices.ContainsFunc(p.Volumes, func(v Volume) bool { return v.Mode == m })
}
