package console

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

// Patience with a program that takes logs.
const (
	loggerStart = 10 * time.Second // until it says that it is ready, as containerd has it
	loggerEnd   = 10 * time.Second // from the end of output to its own
)

// logger is a program that takes logs: output on its descriptor 3, errors on 4,
// and it closes 5 when it is ready.
type logger struct {
	*os.File
	cmd *exec.Cmd
}

// startLogger starts the program that a URI names. Its query becomes arguments:
// each key and its value, as containerd's own shim has it.
func startLogger(u *url.URL, task Task) (_ io.WriteCloser, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start %s for task's output: %w", u.Path, err)
		}
	}()
	var args []string
	query := u.Query()
	for _, key := range slices.Sorted(maps.Keys(query)) {
		args = append(args, key, query[key][0])
	}
	cmd := exec.Command(u.Path, args...)
	cmd.Env = []string{"CONTAINER_ID=" + task.ID, "CONTAINER_NAMESPACE=" + task.Namespace}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var ends []*os.File
	defer func() {
		for _, f := range ends {
			f.Close()
		}
	}()
	out, outEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	ends = append(ends, out)
	errs, errsEnd, err := os.Pipe()
	if err != nil {
		outEnd.Close()
		return nil, err
	}
	errsEnd.Close() // a console has one stream
	ends = append(ends, errs)
	ready, readyEnd, err := os.Pipe()
	if err != nil {
		outEnd.Close()
		return nil, err
	}
	defer ready.Close()
	ends = append(ends, readyEnd)
	cmd.ExtraFiles = []*os.File{out, errs, readyEnd}
	if err := cmd.Start(); err != nil {
		outEnd.Close()
		return nil, err
	}
	readyEnd.Close()
	_ = ready.SetReadDeadline(time.Now().Add(loggerStart))
	if _, err := ready.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		outEnd.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("it is not ready after %s", loggerStart)
	}
	return &logger{outEnd, cmd}, nil
}

// Close ends the output and waits for the program to have taken it.
func (l *logger) Close() error {
	err := l.File.Close()
	kill := time.AfterFunc(loggerEnd, func() { _ = l.cmd.Process.Kill() })
	defer kill.Stop()
	return errors.Join(err, l.cmd.Wait())
}
