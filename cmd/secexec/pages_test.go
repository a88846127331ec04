package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var update = flag.Bool("update", false, "rewrite golden files, man pages and completions")

// Man pages and completions are made from the commands. They lie in packaging/
// as packages install them; make man rewrites them.
func TestPagesAreThoseOfTheCommands(t *testing.T) {
	t.Parallel()
	root := newRoot()
	root.Version = "" // pages don't change with each commit
	root.DisableAutoGenTag = true
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("completion")
	want := make(map[string][]byte)
	epoch := time.Unix(0, 0).UTC()
	walk(root, func(cmd *cobra.Command) {
		if cmd.HasParent() && cmd.Parent().Name() == "completion" {
			return // a page for each shell says nothing that completion's own does not
		}
		cmd.DisableAutoGenTag = true
		var page bytes.Buffer
		header := &doc.GenManHeader{Section: "1", Source: "secexec", Manual: "secexec", Date: &epoch}
		if err := doc.GenMan(cmd, header, &page); err != nil {
			t.Fatal(err)
		}
		want["man/"+strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".1"] = page.Bytes()
	})
	for name, write := range map[string]func(*bytes.Buffer) error{
		"completions/secexec.bash": func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) },
		"completions/_secexec":     func(b *bytes.Buffer) error { return root.GenZshCompletion(b) },
		"completions/secexec.fish": func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) },
	} {
		var script bytes.Buffer
		if err := write(&script); err != nil {
			t.Fatal(err)
		}
		want[name] = script.Bytes()
	}
	dir := filepath.FromSlash("../../packaging")
	have, err := filepath.Glob(dir + "/man/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range have {
		if name := "man/" + filepath.Base(path); want[name] == nil {
			if *update {
				os.Remove(path)
				continue
			}
			t.Errorf("packaging/%s is no command's page: make man", name)
		}
	}
	for name, page := range want {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, page, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, page) {
			t.Errorf("packaging/%s is not what the commands say: make man (%v)", name, err)
		}
	}
}

// Every command can be found out about by a sentence.
func TestEveryCommandExplainsItself(t *testing.T) {
	t.Parallel()
	walk(newRoot(), func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: its short description is %q", cmd.CommandPath(), cmd.Short)
		}
	})
}

// Each of an owner's commands has examples, and they are right: their flags and
// arguments parse.
func TestExamples(t *testing.T) {
	t.Parallel()
	found := 0
	walk(newRoot(), func(cmd *cobra.Command) {
		if cmd.HasParent() && cmd.Parent().GroupID == "owner" && cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.SplitSeq(strings.ReplaceAll(cmd.Example, "\\\n", ""), "\n") {
			words := strings.Fields(line)
			if len(words) == 0 || words[0] != "secexec" {
				continue
			}
			found++
			// Values stay in flags, so each example has commands of its own.
			to, rest, err := newRoot().Find(words[1:])
			if err != nil || to.CommandPath() != cmd.CommandPath() {
				t.Errorf("%s: %q is an example of another command: %v", cmd.CommandPath(), line, err)
				continue
			}
			if err := to.ParseFlags(rest); err != nil {
				t.Errorf("%q: %v", line, err)
			}
			if err := errors.Join(to.ValidateRequiredFlags(), to.ValidateArgs(to.Flags().Args())); err != nil {
				t.Errorf("%q: %v", line, err)
			}
		}
	})
	if found < 20 {
		t.Errorf("%d examples", found)
	}
}

// Who knows pvimg create sees each of its options in one help, short enough to
// be read.
func TestHelpOfImageCreate(t *testing.T) {
	t.Parallel()
	var help bytes.Buffer
	root := newRoot()
	root.SetOut(&help)
	root.SetArgs([]string{"image", "create", "--help"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	names := "kernel image ramdisk parmfile output host-key-document no-verify cert crl offline root-ca no-component-check overwrite cck comm-key hdr-key image-key help quiet verbose"
	for _, name := range strings.Fields("dump cck-extension-secret cck-update pckmo pckmo-hmac backup-keys image-encryption") {
		names += " enable-" + name + " disable-" + name
	}
	for name := range strings.FieldsSeq(names) {
		if !regexp.MustCompile("(?m)^  .*--" + name + `[, \n]`).Match(help.Bytes()) {
			t.Errorf("no --%s in the help", name)
		}
	}
	lines := strings.Split(help.String(), "\n")
	for _, line := range lines {
		if len(line) > 110 {
			t.Errorf("a line of %d columns: %s", len(line), line)
		}
	}
	if len(lines) > 60 {
		t.Errorf("%d lines", len(lines))
	}
}

func walk(cmd *cobra.Command, each func(*cobra.Command)) {
	if !cmd.IsAvailableCommand() && cmd.HasParent() {
		return
	}
	each(cmd)
	for _, sub := range cmd.Commands() {
		walk(sub, each)
	}
}
