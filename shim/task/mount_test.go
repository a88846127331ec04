package task

import (
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"
)

func TestParseOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		options string
		flags   uintptr
		data    string
	}{
		{"", 0, ""},
		{"rbind ro", unix.MS_BIND | unix.MS_REC | unix.MS_RDONLY, ""},
		{"ro rw nosuid", unix.MS_NOSUID, ""},
		{"index=off workdir=/w upperdir=/u lowerdir=/l", 0, "index=off,workdir=/w,upperdir=/u,lowerdir=/l"},
		{"ro lowerdir=/a:/b", unix.MS_RDONLY, "lowerdir=/a:/b"},
	} {
		if flags, data := parseOptions(strings.Fields(c.options)); flags != c.flags || data != c.data {
			t.Errorf("%s: %#x %q", c.options, flags, data)
		}
	}
}

func TestMountOfTooMuch(t *testing.T) {
	t.Parallel()
	m := &types.Mount{Type: "overlay", Options: []string{"lowerdir=" + strings.Repeat("/a:", 2000)}}
	if _, err := mountAll([]*types.Mount{m}, t.TempDir()+"/rootfs"); err == nil || !strings.Contains(err.Error(), "a sealed image has one layer") {
		t.Errorf("error %v", err)
	}
}
