package supervise

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/guestinit/handover"
	"github.com/secexec/secexec/sealed"
)

func TestFind(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, mode := range map[string]os.FileMode{
		"bin/app": 0o755, "usr/bin/app": 0o755, "usr/bin/tool": 0o755, "bin/tool": 0o644, "srv/run.sh": 0o755, "srv/bin/mine": 0o755, "bin/text": 0o644,
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/usr/bin/tool", filepath.Join(root, "bin/link")); err != nil {
		t.Fatal(err)
	}
	const standard = "/sbin:/bin:/usr/bin"
	for _, c := range []struct {
		name, path, dir, want string
		err                   error
	}{
		{"app", standard, "/", "/bin/app", nil},
		{"tool", standard, "/", "/usr/bin/tool", nil}, // what can't be executed is passed over
		{"link", standard, "/", "/bin/link", nil},     // it leads where it does in the root
		{"/usr/bin/app", "", "/", "/usr/bin/app", nil},
		{"./run.sh", standard, "/srv", "/srv/run.sh", nil},
		{"mine", "bin", "/srv", "/srv/bin/mine", nil},
		{"run.sh", "/bin:", "/srv", "/srv/run.sh", nil}, // an empty entry is the working directory
		{"run.sh", standard, "/srv", "", handover.ErrNoInit},
		{"absent", standard, "/", "", handover.ErrNoInit},
		{"/bin/text", standard, "/", "", handover.ErrBadInit},
		{"/bin", standard, "/", "", handover.ErrBadInit},
		{"../../../bin/sh", standard, "/", "", handover.ErrNoInit}, // the root has none, whatever is outside
	} {
		got, err := Find(root, &sealed.Workload{Args: []string{c.name}, Env: []string{"X=1", "PATH=" + c.path}, Dir: c.dir})
		if errors.Is(err, unix.ENOSYS) {
			t.Skip("openat2 is not available here (qemu-user before 8.0)")
		}
		if !errors.Is(err, c.err) || err == nil && got != c.want {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	for ws, want := range map[unix.WaitStatus]uint8{0: 0, 3 << 8: 3, 255 << 8: 255, 9: 137, 15: 143, 11 | 0x80: 139} {
		if got := exitStatus(ws); got != want {
			t.Errorf("wait status %#x is %d, wants %d", ws, got, want)
		}
	}
	if startStatus(unix.ENOENT) != 127 || startStatus(unix.EACCES) != 126 || startStatus(unix.ENOEXEC) != 126 {
		t.Error("a program that can't be started has another status than in a shell")
	}
}
