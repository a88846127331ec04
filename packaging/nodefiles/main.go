// Command nodefiles writes the files of the node's package that are made from
// hostagent's settings: the settings file and its manual page. Both hold every
// option, because nobody writes them by hand.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/secexec/secexec/hostagent/settings"
)

// group is the one option that the package sets: systemd/*.sysusers.conf makes
// the group.
const group = "secexec"

func main() {
	dir := flag.String("o", ".", "`folder` to write to")
	date := flag.Int64("date", 0, "the page's date, in `seconds` since 1970")
	flag.Parse()
	for name, text := range map[string][]byte{
		"hostagent.yaml":   settingsFile(),
		"hostagent.yaml.5": settingsPage(time.Unix(*date, 0).UTC()),
	} {
		if err := os.WriteFile(filepath.Join(*dir, name), text, 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "nodefiles:", err)
			os.Exit(1)
		}
	}
}

// settingsFile returns the file that the package installs: the template, and
// the package's own group.
func settingsFile() []byte {
	return bytes.Replace(settings.Template(), []byte("\n#group: \"\"\n"), []byte("\ngroup: "+group+"\n"), 1)
}

// settingsPage returns hostagent.yaml(5).
func settingsPage(date time.Time) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `.TH HOSTAGENT.YAML 5 "%s" secexec "secexec"
.SH NAME
hostagent.yaml \- settings of hostagent
.SH SYNOPSIS
%s
.SH DESCRIPTION
YAML with the options below, each at most once; an unknown one is an error.
Each is also a flag of
.BR hostagent (8),
with hyphens in place of underscores, and the flag goes before the file.
Changes count from the next start on:
.B systemctl restart hostagent
leaves running guests alone.
.SH OPTIONS
`, date.Format("2006-01-02"), roff(settings.File))
	def := reflect.ValueOf(settings.Default())
	for i := range def.NumField() {
		f := def.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(name), roff(f.Tag.Get("doc")))
		if value := def.Field(i); !value.IsZero() {
			fmt.Fprintf(&b, "Default: %s.\n", roff(fmt.Sprint(value.Interface())))
		}
	}
	b.WriteString(".SH SEE ALSO\n.BR hostagent (8)\n")
	return b.Bytes()
}

// roff makes text safe as a line of a manual page.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}
