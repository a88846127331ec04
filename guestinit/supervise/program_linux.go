package supervise

import (
	"errors"
	"fmt"
	"path"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/guestinit/handover"
	"github.com/secexec/secexec/sealed"
)

// Find finds a workload's program in a root, as execvp(3) would there: a name
// without a slash in the folders of PATH. It returns the absolute path.
func Find(root string, w *sealed.Workload) (string, error) {
	name := w.Args[0]
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join(w.Dir, name)
		}
		return name, handover.CheckInit(root, name)
	}
	var first error
	for dir := range strings.SplitSeq(variable(w.Env, "PATH"), ":") {
		file := path.Join("/", w.Dir, dir, name)
		if path.IsAbs(dir) {
			file = path.Join(dir, name)
		}
		err := handover.CheckInit(root, file)
		if err == nil {
			return file, nil
		}
		if first == nil {
			first = err
		}
	}
	return "", first
}

func variable(env []string, name string) string {
	for _, s := range env {
		if value, ok := strings.CutPrefix(s, name+"="); ok {
			return value
		}
	}
	return ""
}

// process is how the program is started.
type process struct {
	w      *sealed.Workload
	path   string
	env    []string
	files  [3]int // standard streams
	cgroup int    // folder
}

// start forks and execs the program.
func (p *process) start() (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// What limits a thread's rights is inherited by what it forks and can't be
		// taken back, so the thread is given up: it ends with the goroutine.
		runtime.LockOSThread()
		if err = p.limit(); err == nil {
			pid, err = p.fork()
		}
	}()
	<-done
	return pid, err
}

const lastCapability = 63 // the kernel says where its own end

// limit takes from this thread what the program must never get.
func (p *process) limit() error {
	for c := range lastCapability + 1 {
		if p.w.Capabilities>>c&1 != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if p.w.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("forbid new privileges: %w", err)
		}
	}
	return nil
}

func (p *process) fork() (int, error) {
	attr := &syscall.SysProcAttr{
		Setsid:      true,
		Credential:  &syscall.Credential{Uid: p.w.UID, Gid: p.w.GID, Groups: p.w.Groups},
		UseCgroupFD: true, CgroupFD: p.cgroup, // from its first instruction on
	}
	if p.w.UID != 0 { // root's program has all of the bounding set
		for c := range lastCapability + 1 {
			if p.w.Ambient>>c&1 != 0 {
				attr.AmbientCaps = append(attr.AmbientCaps, uintptr(c))
			}
		}
	}
	return syscall.ForkExec(p.path, p.w.Args, &syscall.ProcAttr{
		Dir: p.w.Dir, Env: p.env, Sys: attr,
		Files: []uintptr{uintptr(p.files[0]), uintptr(p.files[1]), uintptr(p.files[2])},
	})
}

// startStatus is the status of a program that can't be started, as shells have
// it: 127 where something is missing, else 126.
func startStatus(err error) uint8 {
	if errors.Is(err, unix.ENOENT) {
		return 127
	}
	return 126
}

// exitStatus is an ended program's status: 128+n for signal n.
func exitStatus(ws unix.WaitStatus) uint8 {
	if ws.Signaled() {
		return 128 + uint8(ws.Signal())
	}
	return uint8(ws.ExitStatus())
}
