package pod

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

func TestLocate(t *testing.T) {
	t.Parallel()
	found, err := filepath.Glob("/sys/dev/block/*")
	if err != nil || len(found) == 0 {
		t.Skip("this machine shows no block device in /sys/dev/block")
	}
	disk := &hostagentv1.Disk{Path: "/dev/block/" + filepath.Base(found[0]), Serial: "data"}
	target, err := os.Readlink(found[0])
	if err := errors.Join(err, Locate([]*hostagentv1.Disk{disk})); err != nil || disk.Path != "/dev/"+strings.ReplaceAll(filepath.Base(target), "!", "/") {
		t.Errorf("%s of %s: %v", disk.Path, target, err)
	}
	disk.Path = "/dev/block/4095:1048575"
	if err := Locate([]*hostagentv1.Disk{disk}); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "disk data") {
		t.Errorf("a device that is not there: %v", err)
	}
}

func TestDeviceName(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"MAJOR=8\nMINOR=0\nDEVNAME=sda\nDEVTYPE=disk\n": "sda", "DEVNAME=mapper/control\n": "mapper/control",
		"": "", "DEVNAME=\n": "", "XDEVNAME=a\n": "",
	} {
		if got, err := deviceName(strings.NewReader(text)); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}
