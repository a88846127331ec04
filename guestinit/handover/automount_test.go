package handover

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMaskAutoMounts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := MaskAutoMounts(dir); err != nil {
		t.Fatal(err)
	}
	target, err := os.Readlink(filepath.Join(dir, "run/systemd/system-generators/systemd-gpt-auto-generator"))
	if err != nil || target != "/dev/null" {
		t.Errorf("%q %v", target, err)
	}
	if err := MaskAutoMounts(dir); err == nil {
		t.Error("something else was there, and nobody is told")
	}
}
