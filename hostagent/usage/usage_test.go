package usage

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/secexec/secexec/hostagent/launch"
)

// tree writes a system's files.
func tree(t testing.TB, files map[string]string) Reader {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return Reader{Root: root}
}

const (
	statText = "7 (a) R 9 9 9) S 1 7 7 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 6 0 4711 900000 2000 18446744073709551615"
	ioText   = "rchar: 99\nwchar: 98\nsyscr: 1\nsyscw: 1\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 0\n"
)

func TestRead(t *testing.T) {
	t.Parallel()
	id := launch.Identity{PID: 7, StartTicks: 4711}
	page := uint64(os.Getpagesize())
	child := map[string]string{
		"proc/7/stat": statText, "proc/7/statm": "900 20 3 0 0 0 0", "proc/7/io": ioText, "proc/7/cgroup": "0::/system.slice/hostagent.service\n",
	}
	unit := map[string]string{
		"proc/7/stat": statText, "proc/7/statm": "900 20 3", "proc/7/cgroup": "1:name=systemd:/x\n0::/secexec.slice/secexec-web.service\n",
		"sys/fs/cgroup/secexec.slice/secexec-web.service/io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=1\n8:16 rbytes=1 wbytes=2\n",
		"sys/class/net/tap0/statistics/tx_bytes":                  "100\n",
		"sys/class/net/tap0/statistics/rx_bytes":                  "200\n",
	}
	for name, c := range map[string]struct {
		files map[string]string
		taps  []string
		want  Use
	}{
		"child":  {child, nil, Use{CPU: 2 * time.Second, Memory: 20 * page, Threads: 6, DiskKnown: true, DiskRead: 4096, DiskWrite: 8192}},
		"unit":   {unit, []string{"tap0", "../tap0", "tap1"}, Use{CPU: 2 * time.Second, Memory: 20 * page, Threads: 6, DiskKnown: true, DiskRead: 11, DiskWrite: 22, NetKnown: true, NetIn: 100, NetOut: 200}},
		"little": {map[string]string{"proc/7/stat": statText}, nil, Use{CPU: 2 * time.Second, Threads: 6}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := tree(t, c.files).Read(id, c.taps); err != nil || got != c.want {
				t.Errorf("%+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
	// A number that changed hands is another process's.
	for _, other := range []launch.Identity{{PID: 7, StartTicks: 4712}, {PID: 8, StartTicks: 4711}} {
		if _, err := tree(t, child).Read(other, nil); !errors.Is(err, launch.ErrGone) {
			t.Errorf("%+v: %v", other, err)
		}
	}
	for _, text := range []string{"", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 0 9 0 0 0 x 5 0 0 20 0 6 0 4711 0"} {
		if _, err := tree(t, map[string]string{"proc/7/stat": text}).Read(id, nil); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// What is read of a real process agrees with what it did.
func TestPremiseOwn(t *testing.T) {
	t.Parallel()
	text, err := small("/proc/self/stat", make([]byte, maxFile))
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseStat(text)
	if err != nil {
		t.Fatal(err)
	}
	if s.threads == 0 {
		t.Skip("/proc/self/stat is not the kernel's: qemu-user makes its own")
	}
	u, err := Reader{}.Read(launch.Identity{PID: os.Getpid(), StartTicks: s.start}, nil)
	if err != nil || u.Memory < 1<<20 || u.Memory > 4<<30 || u.Threads == 0 {
		t.Errorf("%+v, %v", u, err)
	}
}

func BenchmarkRead100(b *testing.B) {
	var ids []launch.Identity
	for range 100 {
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		text, err := small(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid), make([]byte, maxFile))
		if err != nil {
			b.Fatal(err)
		}
		s, _ := parseStat(text)
		ids = append(ids, launch.Identity{PID: cmd.Process.Pid, StartTicks: s.start})
	}
	for b.Loop() {
		for _, id := range ids {
			if _, err := (Reader{}).Read(id, nil); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(statText))
	f.Add([]byte(ioText))
	f.Add([]byte("0::/secexec.slice/a.service\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _ = parseStat(text)
		_, _ = parseStatm(text)
		_, _ = value(text, "read_bytes")
		ioStat(text)
		if g := unitGroup(text); g != "" && filepath.Clean("/"+g) != "/"+g {
			t.Errorf("group %q", g)
		}
	})
}
