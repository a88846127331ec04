package owner

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrCmdline is wrapped by the error about a word on the kernel command line
// that would take a sealed guest's protection away.
var ErrCmdline = errors.New("kernel command line refused")

// refusedWords are kernel parameters that no sealed guest may have, with why
// (Linux, Documentation/admin-guide/kernel-parameters.txt). All others are the
// owner's choice: guestinit reads none of them.
var refusedWords = []struct {
	names []string
	why   string
}{
	{[]string{"rdinit", "noinitrd", "initrd", "initrdmem"}, "guestinit would not run, and nothing would be unlocked: leave it out"},
	{[]string{"init"}, "it has no effect, guestinit runs the init of the plan: leave it out and use --init"},
	{[]string{"sysrq_always_enabled"}, "the host could send keys to the guest's kernel through its console: leave it out"},
	{[]string{"kgdboc", "kgdbwait", "kgdbcon", "kgdbts"}, "the host could reach a debugger through the guest's console: leave it out"},
}

// checkCmdline refuses words that would take protection away.
func checkCmdline(cmdline string) error {
	for _, word := range cmdlineWords(cmdline) {
		name, _, _ := strings.Cut(word, "=")
		name = strings.ReplaceAll(name, "-", "_") // the kernel makes no difference
		for _, r := range refusedWords {
			if slices.Contains(r.names, name) {
				return fmt.Errorf("%w: %.80q: %s", ErrCmdline, word, r.why)
			}
		}
	}
	return nil
}

// cmdlineWords splits a command line as the kernel does (next_arg in
// lib/cmdline.c): at white space outside of double quotes, which may stand
// around a word. What comes after "--" is init's and means nothing here.
func cmdlineWords(cmdline string) []string {
	latin := make([]rune, len(cmdline)) // to the kernel a byte is a character
	for i := range latin {
		latin[i] = rune(cmdline[i])
	}
	quoted := false
	words := strings.FieldsFunc(string(latin), func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r <= ' ' || r == 0xa0)
	})
	for i, w := range words {
		if w == "--" {
			return words[:i]
		}
		words[i] = strings.Trim(w, `"`)
	}
	return words
}
