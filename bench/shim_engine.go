package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// engine is Debian's containerd with a hostagent whose guests stay paused, both
// with folders and sockets of their own.
type engine struct {
	dir, self  string
	image      string // its name
	containerd *exec.Cmd
	hostagent  *ours
}

// engineConfig leaves out what this needs nothing of.
const engineConfig = `version = 2
root = "DIR/root"
state = "DIR/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "DIR/c.sock"
`

// newEngine starts both and imports an image from its archive.
func newEngine(ctx context.Context, o *options, archive string) (*engine, error) {
	dir, err := os.MkdirTemp("", "b") // short: sockets have short paths
	if err != nil {
		return nil, err
	}
	e := &engine{dir: dir}
	if err := e.open(ctx, o, archive); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

func (e *engine) open(ctx context.Context, o *options, archive string) (err error) {
	none := *o
	none.guests = 0
	if e.hostagent, err = newOurs(e.dir, &none); err != nil {
		return err
	}
	e.self = e.hostagent.self
	if err := e.hostagent.boot(ctx); err != nil {
		return err
	}
	programs, err := filepath.Abs(filepath.Dir(o.secexec)) // the shim is the one beside secexec
	if err != nil {
		return err
	}
	if err := os.WriteFile(e.path("config.toml"), []byte(strings.ReplaceAll(engineConfig, "DIR", e.dir)), 0o600); err != nil {
		return err
	}
	log, err := os.Create(e.path("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("containerd", "--config", e.path("config.toml"))
	cmd.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"), "SECEXEC_SOCKET="+e.hostagent.socket(), "SECEXEC_SHIM_STATE="+e.path("shims"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	e.containerd = cmd
	if err := eventually(ctx, func() error { return e.ctr(ctx, "version") }); err != nil {
		return err
	}
	if err := e.ctr(ctx, "images", "import", archive); err != nil {
		return err
	}
	name, err := exec.CommandContext(ctx, "ctr", e.args("images", "ls", "-q")...).Output()
	e.image = strings.TrimSpace(string(name))
	return err
}

func (e *engine) path(name string) string { return e.dir + "/" + name }

func (e *engine) args(args ...string) []string {
	return slices.Concat([]string{"--address", e.path("c.sock"), "--namespace", "bench"}, args)
}

func (e *engine) ctr(ctx context.Context, args ...string) error {
	return run1(ctx, append([]string{"ctr"}, e.args(args...)...)...)
}

// create makes a container with its snapshot, start the task in it; delete and
// forget are their ends.
func (e *engine) create(ctx context.Context, c *contender, id string) error {
	return e.ctr(ctx, slices.Concat([]string{"containers", "create", "--runtime", c.runtime}, c.options, []string{e.image, id}, c.command)...)
}

func (e *engine) start(ctx context.Context, id string) error {
	return e.ctr(ctx, "tasks", "start", "--detach", "--log-uri", "file://"+e.path(id+".console"), id)
}

func (e *engine) delete(ctx context.Context, id string) error {
	return e.ctr(ctx, "tasks", "rm", "--force", id)
}

func (e *engine) forget(ctx context.Context, id string) error {
	return errors.Join(e.ctr(ctx, "containers", "rm", id), os.Remove(e.path(id+".console")))
}

func (e *engine) run(ctx context.Context, c *contender, id string) error {
	if err := e.create(ctx, c, id); err != nil {
		return err
	}
	return e.start(ctx, id)
}

func (e *engine) drop(ctx context.Context, id string) error {
	if err := e.delete(ctx, id); err != nil {
		return err
	}
	return e.forget(ctx, id)
}

// shim is the process that serves a task.
func (e *engine) shim(c *contender, id string) (int, error) {
	for _, pid := range named(c.program) {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		argv := strings.Split(string(cmdline), "\x00")
		if slices.Contains(argv, e.path("c.sock")) && slices.Contains(argv, id) && !slices.Contains(argv, "start") {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("task %s has no shim", id)
}

// processes are the daemons' children, and those whose arguments or environment
// name the engine's folder; not the daemons.
func (e *engine) processes() (pids []int) {
	var daemons []int
	for _, cmd := range []*exec.Cmd{e.containerd, e.hostagent.cmd} {
		if cmd != nil && cmd.Process != nil {
			daemons = append(daemons, cmd.Process.Pid)
		}
	}
	for _, pid := range running() {
		if slices.Contains(daemons, pid) {
			continue
		}
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if slices.Contains(daemons, parentOf(pid)) || bytes.Contains(cmdline, []byte(e.path(""))) || bytes.Contains(environ, []byte(e.path(""))) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// close ends both daemons, and what they left.
func (e *engine) close() error {
	var err error
	if e.hostagent != nil && e.hostagent.cmd != nil {
		left := e.processes()
		if e.containerd != nil {
			err = e.containerd.Process.Signal(syscall.SIGTERM)
			_ = e.containerd.Wait()
		}
		err = errors.Join(err, e.hostagent.murder())
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	return errors.Join(err, os.RemoveAll(e.dir))
}
