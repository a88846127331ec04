package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
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

// Every command can be found out about: a sentence, and a description of each
// flag.
func TestEveryCommandExplainsItself(t *testing.T) {
	t.Parallel()
	walk(newRoot(), func(cmd *cobra.Command) {
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: its short description is %q", cmd.CommandPath(), cmd.Short)
		}
	})
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
