package main

import (
	"bytes"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/rootdisk/oci/ocitest"
)

// fixtures makes one good file of each name that workingCommands read.
func fixtures(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, data []byte) {
		must(t, os.MkdirAll(filepath.Dir(in(name)), 0o755))
		must(t, os.WriteFile(in(name), data, 0o644))
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(in(name))
		must(t, err)
		return data
	}
	run := func(line string) string {
		t.Helper()
		res := invoke(t, dir, strings.Fields(line), nil)
		if res.status != 0 {
			t.Fatalf("secexec %v: %s", line, res.stderr)
		}
		return res.stdout
	}
	run("emulate init h")
	run("emulate init b")
	var lists bytes.Buffer
	for from, to := range map[string]string{
		"h/host.crt": "host.crt", "b/host.crt": "host-b.crt", "h/host.key": "host.key",
		"h/ca/signing.crt": "signing.crt", "h/ca/inter-ca.crt": "inter.crt", "h/ca/root-ca.crt": "root.crt",
	} {
		must(t, os.Rename(in(from), in(to)))
		for block, rest := pem.Decode(read(to)); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "X509 CRL" {
				must(t, pem.Encode(&lists, block))
			}
		}
	}
	write("chain.crl", lists.Bytes())
	write("kernel", fakeKernelBytes())
	must(t, writeFakeGuest(in("guest")))
	must(t, os.CopyFS(in("modules"), os.DirFS("testdata/modules")))
	for name, size := range map[string]int{"32.key": 32, "other32.key": 32, "64.key": 64, "disk.key": 64, "initrd": 5000, "seed": 64} {
		write(name, bytes.Repeat([]byte(name), size)[:size])
	}
	write("parmfile", []byte("console=ttysclp0"))
	write("phrase", []byte("a pass phrase, not a good one\n"))
	write("hashes", []byte(strings.Fields(run("hostkey hash host.crt"))[0]+"\n"))

	// Roots.
	write("tree/etc/hostname", bytes.Repeat([]byte("sealed\n"), 9000))
	write("root.tar", ocitest.TarOf(t, in("tree")))
	image := ocitest.Image{Architecture: "s390x", Layers: [][]byte{read("root.tar")}}
	ocitest.WriteLayout(t, in("container"), image)
	write("docker.tar", ocitest.DockerArchive(t, image, "app:1"))
	run("disk create --root tree --root-size 16M --key-file disk.key --passphrase-file phrase --volume-key-file 64.key --pbkdf pbkdf2 --pbkdf-force-iterations 1000 -o root.img")
	run("disk open root.img --key-file disk.key -o plain.img")
	must(t, exec.Command("qemu-img", "convert", "-O", "qcow2", in("plain.img"), in("plain.qcow2")).Run())

	// Kernels.
	rpm, err := os.ReadFile("../../kernel/testdata/kernel-core.rpm")
	must(t, err)
	write("kernel.rpm", rpm)
	write("system/boot/vmlinuz-6.12.0", fakeKernelBytes())
	write("deb/boot/vmlinuz-6.12.0", fakeKernelBytes())
	write("deb/DEBIAN/control", []byte("Package: linux-image-6.12.0\nVersion: 1\nArchitecture: s390x\nMaintainer: Nobody <nobody@example.com>\nDescription: a kernel\n"))
	must(t, exec.Command("dpkg-deb", "-b", in("deb"), in("kernel.deb")).Run())

	// What the commands make of these.
	run("image create -i kernel -r initrd -k host.crt --no-verify --hdr-key 32.key -o boot.seimg")
	run("bootdisk create --image boot.seimg -o bootdisk.raw")
	run("build --root tree --root-size 16M --kernel kernel --modules modules --guest-dir guest -k host.crt --no-verify -o sealed --secrets secrets")
	must(t, os.Rename(in("secrets/identity.pub"), in("identity.pub")))
	run("bundle push sealed oci:layout")
	// Absolute, so that the plan can lie in any folder.
	write("plan.yaml", []byte(strings.ReplaceAll(`kernel: DIR/kernel
modules: DIR/modules
root: {source: DIR/tree, size: 16M}
hosts: {documents: [DIR/host.crt], no_verify: true}
guest_dir: DIR/guest
output: bundle
secrets: keys
`, "DIR", dir)))
	return dir
}

// workFolder makes a folder with a command's inputs.
func workFolder(t *testing.T, good string, inputs []spoiled) string {
	t.Helper()
	dir := t.TempDir()
	for _, in := range inputs {
		put(t, filepath.Join(good, in.top), filepath.Join(dir, in.top), in.change)
	}
	return dir
}

// put copies a file that will be changed, and small ones; others it links.
// Folders are made anew. A link made or taken away elsewhere changes a file's
// ctime, which is a change while it is read to whoever makes a root of it.
func put(t *testing.T, from, to string, change bool) {
	t.Helper()
	info, err := os.Lstat(from)
	must(t, err)
	switch {
	case info.IsDir():
		entries, err := os.ReadDir(from)
		must(t, err)
		if err := os.Mkdir(to, 0o755); os.IsExist(err) {
			return
		}
		for _, e := range entries {
			put(t, filepath.Join(from, e.Name()), filepath.Join(to, e.Name()), change)
		}
	case change:
		must(t, exec.Command("cp", "--sparse=always", from, to).Run())
	case info.Mode().IsRegular() && info.Size() <= 1<<20:
		data, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(to, data, info.Mode().Perm()))
	default:
		must(t, os.Link(from, to))
	}
}
