package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/secexec/secexec/shim/pod"
)

// sockets is where containerd's shims have their sockets.
const sockets = "/run/containerd/s"

// addressFile is where, in the task's folder, containerd 1.6 and we find the
// shim's address again.
const addressFile = "address"

// dialTime is for a shim on the same machine.
const dialTime = 2 * time.Second

// start is the start command, in the task's folder: it leaves a shim behind, or
// finds the one of the task's pod, and prints its address. A plain address stands
// for version 2 of the Task service, over ttrpc, which all containerds from 1.6
// on speak.
func start(o *options) error {
	l, err := openLedger()
	if err != nil {
		return err
	}
	if debts, _ := l.Debts(); len(debts) > 0 {
		spawnCollector()
	}
	group, err := groupOf(o.id)
	if err != nil {
		return err
	}
	path := filepath.Join(sockets, fmt.Sprintf("%x", sha256.Sum256([]byte(filepath.Join(o.address, o.namespace, group)))))
	address := "unix://" + path
	socket, err := listen(path)
	if err != nil {
		return err
	}
	if socket != nil {
		defer socket.Close()
		if err := spawn(o, socket); err != nil {
			os.Remove(path)
			return err
		}
	}
	if err := writeAddress(address); err != nil {
		return err
	}
	_, err = fmt.Print(address)
	return err
}

// groupOf is whose shim serves a task: that of the pod's sandbox, or its own.
func groupOf(id string) (string, error) {
	f, err := os.Open("config.json")
	if err != nil {
		return "", err
	}
	defer f.Close()
	config, err := io.ReadAll(io.LimitReader(f, pod.MaxConfig+1))
	if err != nil {
		return "", err
	}
	want, err := pod.Read(config)
	if err != nil {
		return "", err
	}
	if want.Sandbox != "" {
		return want.Sandbox, nil
	}
	return id, nil
}

// listen makes the socket, or returns nil if a shim serves it already. One that a
// killed shim left is replaced.
func listen(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if serves(path) {
			return nil, nil
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, err
	}
	unix := l.(*net.UnixListener)
	unix.SetUnlinkOnClose(false)
	defer l.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return unix.File()
}

func serves(path string) bool {
	conn, err := net.DialTimeout("unix", path, dialTime)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// writeAddress writes the address at once, for containerd to read.
func writeAddress(address string) error {
	if err := os.WriteFile("."+addressFile, []byte(address), 0o600); err != nil {
		return err
	}
	return os.Rename("."+addressFile, addressFile)
}

// dropSocket removes the socket that a killed shim left behind, unless another
// shim serves it. The current folder is the task's.
func dropSocket() {
	address, err := os.ReadFile(addressFile)
	if err != nil {
		return
	}
	if path := strings.TrimPrefix(string(address), "unix://"); filepath.Dir(path) == sockets && !serves(path) {
		os.Remove(path)
	}
}

// spawn starts the process that serves tasks; it finds the socket as its
// descriptor 3.
func spawn(o *options, socket *os.File) error {
	args := []string{"-namespace", o.namespace, "-id", o.id, "-address", o.address}
	if o.debug {
		args = append(args, "-debug")
	}
	cmd, err := leave(args, socket)
	if err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	// As containerd's own shims have it: the kernel takes the shim before
	// containerd.
	if own, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", os.Getppid())); err == nil {
		if score, err := strconv.Atoi(strings.TrimSpace(string(own))); err == nil {
			_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte(strconv.Itoa(min(score+1, 1000))), 0)
		}
	}
	return nil
}

// spawnCollector starts a process for what could not be deleted yet. Its failure
// costs time only: the next start tries again.
func spawnCollector() { _, _ = leave([]string{"collect"}) }

// leave starts this program once more, in a process that outlasts this one.
func leave(args []string, files ...*os.File) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if len(files) == 0 {
		cmd.Dir = "/" // not in a folder that is about to go
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd, nil
}
