package task

import (
	"os"
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

// A layer is taken from where it lies if a mount would show it and nothing else.
func TestUnpacked(t *testing.T) {
	t.Parallel()
	empty, full := t.TempDir(), t.TempDir()
	if err := os.WriteFile(full+"/bundle.json", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	overlay := func(options ...string) []*types.Mount {
		return []*types.Mount{{Type: "overlay", Source: "overlay", Options: options}}
	}
	for name, c := range map[string]struct {
		mounts []*types.Mount
		want   string // "": it takes a mount
	}{
		"overlay":            {overlay("index=off", "workdir=/w", "upperdir="+empty, "lowerdir=/l"), "/l"},
		"view":               {overlay("lowerdir=/l"), "/l"},
		"written over":       {overlay("workdir=/w", "upperdir="+full, "lowerdir=/l"), ""},
		"upper is gone":      {overlay("workdir=/w", "upperdir="+empty+"/x", "lowerdir=/l"), ""},
		"two layers":         {overlay("lowerdir=/a:/b"), ""},
		"a name with escape": {overlay(`lowerdir=/a\:b`), ""},
		"relative":           {overlay("lowerdir=l"), ""},
		"no layer":           {overlay("index=off"), ""},
		"bind":               {[]*types.Mount{{Type: "bind", Source: "/s", Options: []string{"rbind", "rw"}}}, "/s"},
		"another kind":       {[]*types.Mount{{Type: "btrfs", Source: "/dev/sda", Options: []string{"subvolid=5"}}}, ""},
		"two mounts":         {[]*types.Mount{{Type: "bind", Source: "/s"}, {Type: "bind", Source: "/t"}}, ""},
		"none":               {nil, ""},
	} {
		if folder, ok := unpacked(c.mounts); ok != (c.want != "") || ok && folder != c.want {
			t.Errorf("%s: %q, %v", name, folder, ok)
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
