package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/guestagent/v1"
)

// The root of PID 1, seen from guestagent's own: its working directory is /proc,
// which moved into the root with everything else.
const rootPath = "1/root"

// execEnv is what a program gets beside what the owner asks for.
var execEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=linux"}

// rootProgram is a program in the root, in a cgroup of its own.
type rootProgram struct {
	process *os.Process
	parent  int      // cgroup's
	cgroup  string   // its name in parent
	input   *os.File // or the terminal
	out     []io.Reader
	tty     bool
	ended   atomic.Bool
	running *atomic.Int32 // programs
}

// spawner runs programs in the root.
type spawner struct {
	cgroup  int // guestagent's own; programs' are in it
	running atomic.Int32
	count   atomic.Uint64
}

// spawn runs one.
func (s *spawner) spawn(start *guestagentv1.ExecStart) (_ program, err error) {
	if s.running.Add(1) > maxPrograms {
		s.running.Add(-1)
		return nil, errTooMany
	}
	p := &rootProgram{tty: start.Terminal, parent: s.cgroup, cgroup: fmt.Sprintf("exec-%d", s.count.Add(1)), running: &s.running}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
		if err != nil {
			p.close()
		}
	}()
	env := append(execEnv[:len(execEnv):len(execEnv)], start.Env...)
	path, err := lookPath(start.Args[0], env)
	if err != nil {
		return nil, err
	}
	if theirs, err = p.open(start.Size); err != nil {
		return nil, err
	}
	if err := unix.Mkdirat(p.parent, p.cgroup, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	group, err := unix.Openat(p.parent, p.cgroup, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	defer unix.Close(group)
	oomScore.during(func() {
		p.process, err = os.StartProcess(path, start.Args, &os.ProcAttr{
			Dir: "/", Env: env, Files: theirs,
			Sys: &syscall.SysProcAttr{Chroot: rootPath, Setsid: true, Setctty: p.tty, Ctty: 0, UseCgroupFD: true, CgroupFD: group},
		})
	})
	return p, err
}

// open makes the program's standard streams and returns its ends of them.
func (p *rootProgram) open(size *guestagentv1.ExecSize) ([]*os.File, error) {
	if p.tty {
		master, slave, err := openTerminal()
		if err != nil {
			return nil, err
		}
		p.input, p.out = master, []io.Reader{master}
		p.resize(int(size.GetRows()), int(size.GetColumns()))
		return []*os.File{slave, slave, slave}, nil
	}
	var theirs []*os.File
	for i := range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		if i == 0 {
			p.input, theirs = w, append(theirs, r)
		} else {
			p.out, theirs = append(p.out, r), append(theirs, w)
		}
	}
	return theirs, nil
}

// lookPath finds a program in the root, as execvp does.
func lookPath(name string, env []string) (string, error) {
	root, err := unix.Open(rootPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open the root: %w", err)
	}
	defer unix.Close(root)
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for _, v := range env { // the last PATH holds
			if dirs, ok := strings.CutPrefix(v, "PATH="); ok {
				candidates = nil
				for dir := range strings.SplitSeq(dirs, ":") {
					candidates = append(candidates, dir+"/"+name)
				}
			}
		}
	}
	for _, path := range candidates {
		fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		if err != nil {
			continue
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return path, nil
		}
	}
	return "", errors.New("no such program in the root")
}

// openTerminal makes a pseudo-terminal of the root's own devpts, so that
// programs find it by its name, or of one that nobody else sees.
func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open(rootPath+"/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		if fd, err = ownTerminal(); err != nil {
			return nil, nil, fmt.Errorf("make terminal: %w", err)
		}
	}
	master = os.NewFile(uintptr(fd), "terminal")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("unlock terminal: %w", err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		master.Close()
		return nil, nil, fmt.Errorf("open terminal: %w", errno)
	}
	return master, os.NewFile(peer, "terminal"), nil
}

func ownTerminal() (int, error) {
	config, err := unix.Fsopen("devpts", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(config)
	if err := unix.FsconfigCreate(config); err != nil {
		return -1, err
	}
	mount, err := unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(mount) // the terminal keeps it
	return unix.Openat(mount, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
}

// Write implements io.Writer.
func (p *rootProgram) Write(b []byte) (int, error) { return p.input.Write(b) }

func (p *rootProgram) outputs() []io.Reader { return p.out }

// closeInput ends the program's input: at a terminal as ^D does.
func (p *rootProgram) closeInput() {
	if p.tty {
		_, _ = p.input.Write([]byte{4})
		return
	}
	p.input.Close()
}

func (p *rootProgram) resize(rows, cols int) {
	if !p.tty || rows <= 0 || cols <= 0 {
		return
	}
	if raw, err := p.input.SyscallConn(); err == nil { // Fd would make it block
		_ = raw.Control(func(fd uintptr) {
			_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)})
		})
	}
}

// signal is for the program's process group, of which it is the leader.
func (p *rootProgram) signal(n int) {
	if !p.ended.Load() {
		_ = unix.Kill(-p.process.Pid, unix.Signal(n))
	}
}

// wait waits for the program's end, and ends what it has left behind.
func (p *rootProgram) wait() int {
	state, err := p.process.Wait()
	p.ended.Store(true)
	p.kill()
	if err != nil {
		return 255
	}
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return state.ExitCode()
}

func (p *rootProgram) kill() {
	fd, err := unix.Openat(p.parent, p.cgroup+"/cgroup.kill", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_, _ = unix.Write(fd, []byte("1"))
}

// close takes away all that was made for the program, which does not run.
func (p *rootProgram) close() {
	for range 200 { // the killed take a moment to end
		if err := unix.Unlinkat(p.parent, p.cgroup, unix.AT_REMOVEDIR); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if p.input != nil {
		p.input.Close()
	}
	for _, r := range p.out {
		r.(*os.File).Close()
	}
	p.running.Add(-1)
}
