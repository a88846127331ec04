package console

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"syscall"
)

// Task is whose output is opened.
type Task struct {
	Namespace, ID string
}

// Open opens what containerd names as a task's output: the path of a FIFO, a
// file or a program that takes logs (file:// and binary://, as nerdctl uses it).
// With an empty name output goes nowhere.
//
// A FIFO is opened for reading too, so that a reader may go and come (containerd
// is started anew, or somebody attaches later) without the shim being told of a
// broken pipe; its readers see the end when the shim closes it.
func Open(name string, task Task) (io.WriteCloser, error) {
	scheme, _, found := strings.Cut(name, "://")
	if name == "" {
		return nothing{}, nil
	}
	if !found {
		scheme = "fifo"
	}
	u, err := url.Parse(name)
	if err != nil {
		return nil, fmt.Errorf("open task's output: %w", err)
	}
	switch scheme {
	case "fifo":
		f, err := os.OpenFile(u.Path, os.O_RDWR|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, fmt.Errorf("open task's output: %w", err)
		}
		return f, nil
	case "file":
		f, err := os.OpenFile(u.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open task's output: %w", err)
		}
		return f, nil
	case "binary":
		return startLogger(u, task)
	}
	return nil, fmt.Errorf("open task's output: %.200q is neither a FIFO nor file:// nor binary://", name)
}

type nothing struct{}

func (nothing) Write(p []byte) (int, error) { return len(p), nil }
func (nothing) Close() error                { return nil }
