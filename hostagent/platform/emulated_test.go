package platform

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// emulatedHost makes an emulated host's folder and returns its key's hash.
func emulatedHost(t *testing.T, curve elliptic.Curve) (string, [32]byte) {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "emulated"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	doc, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, hostKeyFile), "PRIVATE KEY", der)
	writePEM(t, filepath.Join(dir, hostCertFile), "CERTIFICATE", doc)
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	// Uncompressed point to coordinates of 80 bytes each.
	size := (len(point) - 1) / 2
	var coordinates [160]byte
	copy(coordinates[80-size:], point[1:1+size])
	copy(coordinates[160-size:], point[1+size:])
	return dir, sha256.Sum256(coordinates[:])
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEmulatedCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(t *testing.T, p *Emulated)
		is     error
		words  string // "" and nil: passes
	}{
		{name: "ordinary machine", change: func(*testing.T, *Emulated) {}},
		{name: "Secure Execution node", change: func(_ *testing.T, p *Emulated) { p.Root = seNode() }, is: ErrSENode, words: "protects nothing"},
		{name: "Secure Execution node without kvm", change: func(_ *testing.T, p *Emulated) {
			m := seNode()
			delete(m, kvmDevice)
			p.Root = m
		}, is: ErrSENode},
		{name: "Secure Execution node, forced", change: func(_ *testing.T, p *Emulated) { p.Root, p.Force = seNode(), true }},
		{name: "Z machine with prot_virt off", change: func(_ *testing.T, p *Emulated) {
			m := seNode()
			m[protVirtKey] = &fstest.MapFile{Data: []byte("0\n")}
			p.Root = m
		}},
		{name: "no folder", change: func(_ *testing.T, p *Emulated) { p.HostDir = "" }, words: "secexec emulate init"},
		{name: "empty folder", change: func(t *testing.T, p *Emulated) { p.HostDir = t.TempDir() }, is: fs.ErrNotExist, words: "secexec emulate init"},
		{name: "key that others can read", change: func(t *testing.T, p *Emulated) {
			if err := os.Chmod(filepath.Join(p.HostDir, hostKeyFile), 0o640); err != nil {
				t.Fatal(err)
			}
		}, words: "chmod 600"},
		{name: "key is a link", change: func(t *testing.T, p *Emulated) {
			dir := t.TempDir()
			if err := os.Symlink(filepath.Join(p.HostDir, hostKeyFile), filepath.Join(dir, hostKeyFile)); err != nil {
				t.Fatal(err)
			}
			p.HostDir = dir
		}, words: "not a regular file"},
		{name: "no document", change: func(t *testing.T, p *Emulated) { os.Remove(filepath.Join(p.HostDir, hostCertFile)) }, is: fs.ErrNotExist, words: hostCertFile},
		{name: "document is garbage", change: func(t *testing.T, p *Emulated) {
			os.WriteFile(filepath.Join(p.HostDir, hostCertFile), []byte("x"), 0o600)
		}, words: hostCertFile},
		{name: "document of a P-256 key", change: func(t *testing.T, p *Emulated) { p.HostDir, _ = emulatedHost(t, elliptic.P256()) }, words: "P-521"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, _ := emulatedHost(t, elliptic.P521())
			p := Emulated{HostDir: dir, Root: fstest.MapFS{}}
			c.change(t, &p)
			err := p.Check(t.Context())
			switch {
			case c.is == nil && c.words == "":
				if err != nil {
					t.Error(err)
				}
			case err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.words):
				t.Errorf("error %v, want %v about %s", err, c.is, c.words)
			}
		})
	}
}

func TestEmulatedHostKeyHashes(t *testing.T) {
	t.Parallel()
	dir, want := emulatedHost(t, elliptic.P521())
	got, err := Emulated{HostDir: dir}.HostKeyHashes()
	if err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("hashes %x, %v; want %x", got, err, want)
	}
}

// The emulation says on each occasion what it is not.
func TestEmulationSaysThatItProtectsNothing(t *testing.T) {
	t.Parallel()
	dir, hash := emulatedHost(t, elliptic.P521())
	node := fstest.MapFS{"proc/meminfo": seNode()["proc/meminfo"]}
	facts, err := Facts(t.Context(), Emulated{HostDir: dir, Root: node}, node, fakeQEMU(t))
	if err != nil {
		t.Fatal(err)
	}
	if facts.Platform != NameEmulated || facts.Protected || !strings.Contains(facts.Warning, "protects nothing") {
		t.Errorf("facts %+v", facts)
	}
	if facts.MemoryMiB != 2048 || facts.CPUs < 1 || facts.QEMU.Major != 8 || len(facts.HostKeyHashes) != 1 || facts.HostKeyHashes[0] != hash {
		t.Errorf("facts %+v", facts)
	}
}

func fakeQEMU(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	syscall.ForkLock.RLock() // a fork meanwhile would keep the file open for writing
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho QEMU emulator version 8.1.0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFactsOfAnSENode(t *testing.T) {
	t.Parallel()
	node, binary := seNode(), fakeQEMU(t)
	facts, err := Facts(t.Context(), SE{Root: node}, node, binary)
	if err != nil || facts.Platform != NameSE || !facts.Protected || facts.Warning != "" || len(facts.HostKeyHashes) != 2 {
		t.Errorf("facts %+v, %v", facts, err)
	}
	delete(node, uvKeysAll)
	facts, err = Facts(t.Context(), SE{Root: node}, node, binary)
	if err != nil || facts.HostKeyHashes != nil || !strings.Contains(facts.Warning, "host key hashes") {
		t.Errorf("facts without hashes %+v, %v", facts, err)
	}
	delete(node, kvmDevice)
	if _, err := Facts(t.Context(), SE{Root: node}, node, binary); !errors.Is(err, ErrNoSecureExecution) {
		t.Errorf("error %v", err)
	}
}

func TestParseMemTotal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want int
		bad  bool
	}{
		{"MemTotal:        2097152 kB\n", 2048, false},
		{"MemFree: 5 kB\nMemTotal: 1023 kB", 0, false},
		{"MemTotal: 2097152 MB\n", 0, true},
		{"MemTotal: -1 kB\n", 0, true},
		{"MemTotal: 99999999999999999999 kB\n", 0, true},
		{"MemTotal:\n", 0, true},
		{"", 0, true},
	} {
		if got, err := parseMemTotal([]byte(c.text)); got != c.want || (err != nil) != c.bad {
			t.Errorf("parseMemTotal(%q) = %d, %v", c.text, got, err)
		}
	}
}
