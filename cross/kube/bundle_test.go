package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// owner makes bundles, as a workload's owner does.
type owner struct {
	dir     string
	secexec string
	keys    []hostKey
}

// hostKey is a machine's, as the owner knows it.
type hostKey struct {
	document string // path
	hash     string // 64 hex digits
}

// label is the key of the label that a node with this host key has.
func (k hostKey) label() string { return labelHostKey + k.hash[:40] }

// newOwner makes a sealed bundle with a key slot for the first of these host key
// documents; manifest takes the others by their places in the list.
func newOwner(t *testing.T, documents []string) *owner {
	t.Helper()
	o := &owner{dir: t.TempDir(), secexec: ours(t, "secexec")}
	kernel, root := kernelAndRoot()
	for _, path := range []string{kernel, root} {
		if _, err := os.Stat(path); err != nil {
			t.Skipf("no %s: run cross/setup.sh (make test-kube)", path)
		}
	}
	lines := strings.Split(strings.TrimSpace(run(t, o.secexec, append([]string{"hostkey", "hash"}, documents...)...)), "\n")
	if len(lines) != len(documents) {
		t.Fatalf("%d hashes of %d host keys", len(lines), len(documents))
	}
	for i, line := range lines {
		hash, _, _ := strings.Cut(line, " ")
		o.keys = append(o.keys, hostKey{documents[i], hash})
	}
	o.build(t, documents[0])
	return o
}

// build seals the workload for a host, anew if there is a bundle: then the image
// is another one.
func (o *owner) build(t *testing.T, document string) {
	t.Helper()
	kernel, root := kernelAndRoot()
	run(t, o.secexec, "build", "--root", root, "--kernel", filepath.Join(kernel, "vmlinuz"), "--modules", filepath.Join(kernel, "modules"),
		"--guest-dir", filepath.Join(repository(), "build", "s390x"), "--memory", "256", "--name", "fleet",
		"-k", document, "--no-verify", "-o", o.bundle(), "--secrets", filepath.Join(o.dir, "secrets"), "--update")
}

// kernelAndRoot are what cross/setup.sh fetched.
func kernelAndRoot() (kernel, root string) {
	return filepath.Join(cacheDir(), "kernel"), filepath.Join(cacheDir(), "roots", "tiny.tar")
}

func (o *owner) bundle() string { return filepath.Join(o.dir, "bundle") }

// manifest gives the bundle key slots for these keys in place of those it has,
// and returns what `secexec kubernetes manifest` prints for it.
func (o *owner) manifest(t *testing.T, keys []int, flags ...string) string {
	t.Helper()
	args := []string{"bundle", "retarget", o.bundle(), "--hdr-key", filepath.Join(o.dir, "secrets", "header.key"), "--no-verify", "--replace"}
	for _, i := range keys {
		args = append(args, "-k", o.keys[i].document)
	}
	run(t, o.secexec, args...)
	return run(t, o.secexec, append([]string{"kubernetes", "manifest", o.bundle(), "--image", "registry.example/fleet:1"}, flags...)...)
}
