package main

import (
	"slices"
	"strings"
	"testing"
)

// workingCommands work as they stand. {NAME} is a file or folder that the
// command reads, {!NAME} one that it changes in place, {NAME/FILE} a file in a
// folder, of which the command is told the folder, <NAME> what it makes. The
// tests spoil one of them at a time. An option that several commands share gets
// all spoilers once, elsewhere commonSpoilers; all of them under SECEXEC_LONG.
var workingCommands = []struct{ name, line string }{
	{"hostkey show", "hostkey show {host.crt}"},
	{"hostkey hash", "hostkey hash {host.crt} --check {hashes}"},
	{"hostkey verify", "hostkey verify {host.crt} --offline -C {signing.crt} -C {inter.crt} --crl {chain.crl} --root-ca {root.crt}"},
	{"image create", "image create -i {kernel} -r {initrd} -p {parmfile} --hdr-key {32.key} --image-key {64.key} --cck {other32.key} --seed {seed} -k {host.crt} " +
		"--offline -C {signing.crt} -C {inter.crt} --root-ca {root.crt} -o <image>"},
	{"image retarget", "image retarget {boot.seimg} --hdr-key {32.key} -k {host-b.crt} --no-verify --remove {host.crt} -o <image>"},
	{"image retarget in place", "image retarget {!boot.seimg} --hdr-key {32.key} -k {host-b.crt} --no-verify"},
	{"image info", "image info {boot.seimg} --hdr-key {32.key}"},
	{"image info map", "image info {boot.seimg} --map"},
	{"image test", "image test {boot.seimg} -k {host.crt}"},
	{"image test hashes", "image test {boot.seimg} --key-hashes={hashes}"},
	{"image unpack", "image unpack {boot.seimg} --hdr-key {32.key} -o <parts>"},
	{"image unpack part", "image unpack {boot.seimg} --host-private-key {host.key} --part kernel -o <part>"},
	{"kernel info", "kernel info {kernel} --modules {modules}"},
	{"kernel info folder", "kernel info {system/boot/vmlinuz-6.12.0}"},
	{"kernel info modules", "kernel info {kernel} --release 6.12.0 --modules {modules/lib/modules/6.12.0/modules.builtin}"},
	{"kernel info deb", "kernel info {kernel.deb}"},
	{"kernel info rpm", "kernel info {kernel.rpm}"},
	{"disk create folder", "disk create --root {tree} --root-size 16M --key-file {disk.key} --volume-key-file {64.key} --pbkdf pbkdf2 --pbkdf-force-iterations 1000 -o <disk.img>"},
	{"disk create tar", "disk create --root {root.tar} --root-size 16M --passphrase-file {phrase} --pbkdf pbkdf2 --pbkdf-force-iterations 1000 -o <disk.img>"},
	{"disk create layout", "disk create --root oci:{container/index.json} --root-size 16M --key-file {disk.key} --pbkdf pbkdf2 --pbkdf-force-iterations 1000 -o <disk.img>"},
	{"disk create docker", "disk create --root docker-archive:{docker.tar} --root-size 16M --key-file {disk.key} --pbkdf pbkdf2 --pbkdf-force-iterations 1000 -o <disk.img>"},
	{"disk create raw", "disk create --root {plain.img} --key-file {disk.key} --pbkdf pbkdf2 --pbkdf-force-iterations 1000 -o <disk.img>"},
	{"disk create qcow2", "disk create --root {plain.qcow2} --key-file {disk.key} --pbkdf pbkdf2 --pbkdf-force-iterations 1000 -o <disk.img>"},
	{"disk info", "disk info {root.img}"},
	{"disk open", "disk open {root.img} --key-file {disk.key} -o <plain>"},
	{"disk open phrase", "disk open {root.img} --passphrase-file {phrase} -o <plain>"},
	{"disk open volume key", "disk open {root.img} --volume-key-file {64.key} -o <plain>"},
	{"bootdisk create", "bootdisk create --image {boot.seimg} --volume 5eead9a9-fe09-4a1e-a1d7-520d00531306={root.img} -o <boot.raw>"},
	{"bootdisk create qcow2", "bootdisk create --image {boot.seimg} -o <boot.qcow2>"},
	{"bootdisk info", "bootdisk info {bootdisk.raw}"},
	{"bootdisk replace", "bootdisk replace {!bootdisk.raw} {boot.seimg}"},
	{"bundle show", "bundle show {sealed/bundle.json}"},
	{"bundle verify", "bundle verify {sealed/bundle.json} --identity {identity.pub}"},
	{"bundle verify image", "bundle verify {sealed/boot.seimg}"},
	{"bundle verify root", "bundle verify {sealed/root.img}"},
	{"bundle push", "bundle push {sealed/root.img} oci:<pushed>"},
	{"bundle push manifest", "bundle push {sealed/bundle.json} oci:<pushed>"},
	{"bundle pull", "bundle pull oci:{layout/index.json} -k {host.crt} -o <pulled>"},
	{"build", "build --root {root.tar} --root-size 16M --kernel {kernel} --modules {modules} --guest-dir {guest} -p {parmfile} -k {host.crt} " +
		"-C {signing.crt} -C {inter.crt} --root-ca {root.crt} -o <bundle> --secrets <keys>"},
	{"build tree", "build --root {tree} --root-size 16M --kernel {kernel} --modules {modules/lib/modules/6.12.0/modules.builtin} --guest-dir {guest/guestinit} " +
		"-k {host.crt} --no-verify -o <bundle> --secrets <keys>"},
	{"build file", "build -f {plan.yaml}"},
	{"emulate init", "emulate init <host-c>"},
}

// tolerated are inputs that a command takes although they were spoiled, by
// input or by command and input, with the reason.
var tolerated = map[string]map[string]string{
	"parmfile": {
		"empty": "a guest can start without a command line", "pipe": "it reads as empty",
		"truncated": "it is a command line too", "other": "any text is a command line",
	},
	"initrd":    {"truncated": "nobody but the kernel knows its format", "other": "nobody but the kernel knows its format"},
	"disk.key":  {"missing": "disk create makes one", "truncated": "any bytes are a key for a new slot", "other": "any bytes are a key for a new slot"},
	"phrase":    {"truncated": "any bytes are a pass phrase for a new slot", "other": "any bytes are a pass phrase for a new slot"},
	"seed":      {"truncated": "32 bytes suffice", "other": "any bytes are a seed"},
	"chain.crl": {"truncated": "the list that is cut off is no list; the certificates' files have it too"},
	"tree":      {"folder": "it is one, of fewer files"},
	"root.tar":  {"folder": "a root may be a folder"},
	"plain.img": {"folder": "a root may be a folder"},
}

// toleratedBy is what only some commands tolerate.
var toleratedBy = map[string]map[string]string{
	"disk create qcow2: plain.qcow2":                                  {"folder": "a root may be a folder"},
	"kernel info modules: modules/lib/modules/6.12.0/modules.builtin": {"missing": "a kernel may have nothing built in", "empty": "a kernel may have nothing built in", "truncated": "a shorter list is one too"},
	"disk info: root.img":                                             {"truncated": "it tells of the damage: a header's backup has a header too"},
	"image info: boot.seimg":                                          {"truncated": "the SE header is whole, and files with a header alone exist"},
	"image test: boot.seimg":                                          {"truncated": "the SE header is whole"},
	"image test hashes: boot.seimg":                                   {"truncated": "the SE header is whole"},
}

// waitedFor are inputs that may be named pipes whose writers come later.
var waitedFor = map[string]bool{"image create: kernel": true, "image create: initrd": true}

// unnamed are refusals that name something else, with the reason.
var unnamed = map[string]string{
	"build file: plan.yaml truncated":                                "what the rest of a file lacks may also come by flags",
	"build tree: modules/lib/modules/6.12.0/modules.builtin empty":   "the module that is lacking is named",
	"build tree: modules/lib/modules/6.12.0/modules.builtin missing": "the module that is lacking is named",
	"kernel info folder: system/boot/vmlinuz-6.12.0 missing":         "the folder without a kernel is named",
}

// keeping are files that a failed or interrupted command leaves or changes, with the reason.
var keeping = map[string]string{
	"bundle push: pushed":                 "what arrived is not sent again by the next push",
	"bundle push manifest: pushed":        "what arrived is not sent again by the next push",
	"bundle pull: .pulled.resume":         "what arrived is not fetched again by the next pull",
	"bootdisk replace: bootdisk.raw":      "it is changed in place; its boot record is written last",
	"image retarget in place: boot.seimg": "it is changed in place; the next retarget tidies",
}

func (c *parsed) keeps(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	return keeping[c.name+": "+top] != ""
}

func isTolerated(command, input, kind string) bool {
	return tolerated[input][kind] != "" || toleratedBy[command+": "+input][kind] != ""
}

// spoiled is an input of a command.
type spoiled struct {
	option string // what stands before it, for what commands share
	top    string // what lies in the work folder
	path   string // what is spoiled: top, or a file in it
	inside bool
	change bool // the command changes it in place
}

// parsed is a line of workingCommands.
type parsed struct {
	name    string
	argv    []string
	inputs  []spoiled
	outputs []string
}

func parseCommands() (all []parsed) {
	for _, c := range workingCommands {
		p := parsed{name: c.name}
		last := ""
		for word := range strings.FieldsSeq(c.line) {
			if before, name, ok := cutMarked(word, '{', '}'); ok {
				name, change := strings.CutPrefix(name, "!")
				top, _, inside := strings.Cut(name, "/")
				p.inputs = append(p.inputs, spoiled{last + " " + name, top, name, inside, change})
				word = before + top
			} else if before, name, ok := cutMarked(word, '<', '>'); ok {
				p.outputs = append(p.outputs, name)
				word = before + name
			}
			p.argv = append(p.argv, word)
			last = word
		}
		if i := slices.Index(p.argv, "plan.yaml"); i >= 0 {
			p.outputs = append(p.outputs, "bundle", "keys")
		}
		all = append(all, p)
	}
	return all
}

func cutMarked(word string, left, right byte) (before, name string, ok bool) {
	i := strings.IndexByte(word, left)
	if i < 0 || word[len(word)-1] != right {
		return "", "", false
	}
	return word[:i], word[i+1 : len(word)-1], true
}

// The table says what it means.
func TestBadInputTable(t *testing.T) {
	t.Parallel()
	names := make(map[string]bool)
	inputs := make(map[string]bool)
	for _, c := range parseCommands() {
		if names[c.name] {
			t.Errorf("two commands are called %s", c.name)
		}
		names[c.name] = true
		for _, in := range c.inputs {
			inputs[in.path], inputs[c.name+": "+in.path] = true, true
		}
	}
	for _, list := range []map[string]map[string]string{tolerated, toleratedBy} {
		for input, kinds := range list {
			if !inputs[input] {
				t.Errorf("no command reads %s", input)
			}
			for kind := range kinds {
				if spoilers[kind] == nil {
					t.Errorf("%s: no spoiler is called %s", input, kind)
				}
			}
		}
	}
}
