package main

import (
	"encoding/xml"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var code = regexp.MustCompile("`([^`]+)`")

// cells returns the rows of a guide's table beneath a heading.
func cells(t *testing.T, path, heading string) [][]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no section %s", path, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var rows [][]string
	for line := range strings.Lines(section) {
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| ---") && !strings.HasPrefix(line, "| libvirt |") && !strings.HasPrefix(line, "| virsh |") {
			rows = append(rows, strings.Split(strings.Trim(line, "|\n"), "|"))
		}
	}
	if len(rows) < 5 {
		t.Fatalf("%d rows in section %s", len(rows), heading)
	}
	return rows
}

func codes(cell string) (out []string) {
	for _, m := range code.FindAllStringSubmatch(cell, -1) {
		out = append(out, m[1])
	}
	return out
}

// elements lists a domain's elements with content and its attributes, as the
// guide writes them.
func elements(t *testing.T, path string, found map[string]bool) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var at []string
	name := func() string {
		p := strings.TrimPrefix(strings.TrimPrefix(strings.Join(at, "/"), "domain/"), "devices/")
		return p
	}
	leaf := false
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			at = append(at, e.Name.Local)
			leaf = true
			for _, a := range e.Attr {
				found[name()+" "+a.Name.Local] = true
			}
			if len(e.Attr) == 0 {
				found[name()] = true
			}
		case xml.CharData:
			if leaf && strings.TrimSpace(string(e)) != "" {
				found[name()] = true
			}
		case xml.EndElement:
			if !leaf {
				delete(found, name()) // one that only holds others
			}
			leaf = false
			at = at[:len(at)-1]
		}
	}
}

// Each element and attribute of our domains is in the guide, and the guide has
// no other.
func TestGuideFromLibvirt(t *testing.T) {
	t.Parallel()
	guide := filepath.FromSlash("../../docs/from-libvirt.md")
	made, told := make(map[string]bool), make(map[string]bool)
	files, err := filepath.Glob("../../hostagent/libvirt/testdata/*.xml")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		elements(t, file, made)
	}
	run := newRun()
	for _, row := range cells(t, guide, "Elements") {
		for _, name := range codes(row[0]) {
			told[name] = true
			if !made[name] {
				t.Errorf("the guide has %s, our domains don't", name)
			}
		}
		for _, text := range codes(row[1]) {
			words := strings.Fields(text)
			if !strings.HasPrefix(words[0], "--") {
				continue
			}
			flag := strings.TrimPrefix(words[0], "--")
			if run.Flags().Lookup(flag) == nil {
				t.Errorf("secexec run has no --%s", flag)
			}
			if len(words) == 1 {
				continue
			}
			option := words[1] // of --disk or --network
			if strings.HasSuffix(option, "=") {
				option += "1"
			}
			switch {
			case flag == "disk" && !strings.HasPrefix(option, "path="):
				_, err = parseDisk("path=/y," + option)
			case flag == "disk":
				_, err = parseDisk(option)
			case option == "user" || strings.HasPrefix(option, "tap="):
				_, err = parseNetwork(option)
			default:
				_, err = parseNetwork("tap=y," + option)
			}
			if err != nil {
				t.Errorf("--%s %s: %v", flag, option, err)
			}
		}
	}
	for name := range made {
		if !told[name] {
			t.Errorf("our domains have %s, the guide does not", name)
		}
	}
}

// The guide's commands are there: ours, and virsh's where it is installed.
func TestGuideFromVirsh(t *testing.T) {
	t.Parallel()
	var theirs []string
	for _, row := range cells(t, filepath.FromSlash("../../docs/from-libvirt.md"), "Commands") {
		theirs = append(theirs, codes(row[0])...)
		for _, text := range append(codes(row[1]), codes(row[2])...) {
			words := strings.Fields(text)
			if words[0] != "secexec" {
				continue
			}
			cmd, rest, err := newRoot().Find(words[1:])
			if err != nil || !cmd.HasParent() {
				t.Errorf("%q is no command of ours: %v", text, err)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("%q: %v", text, err)
			}
		}
	}
	virsh, err := exec.LookPath("virsh")
	if err != nil {
		t.Skipf("%v: Debian package libvirt-clients; our side was tested", err)
	}
	out, err := exec.Command(virsh, "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	known := strings.Fields(string(out))
	for _, name := range theirs {
		if !slices.Contains(known, name) {
			t.Errorf("virsh has no %s", name)
		}
	}
}
