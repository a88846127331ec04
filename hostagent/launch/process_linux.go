package launch

import (
	"context"
	"fmt"
	"sync"

	"github.com/secexec/secexec/hostagent/wake"
)

// process is a process that is watched until it ends or is released.
type process struct {
	id     Identity
	fd     *pidfd
	exited chan struct{}
	watch  *wake.Call // of the end, which closes the pidfd

	mu   sync.Mutex // guards exit
	exit Exit
}

var _ Process = (*process)(nil)

// watch opens the process that has the number id.PID now and waits for its end;
// reap is called once then. The process's unit is as id
// says, the rest of its identity as found.
func watch(id Identity, reap func() Exit) (*process, error) {
	fd, err := openPidfd(id.PID)
	if err != nil {
		return nil, err
	}
	unit, invocation := id.Unit, id.Invocation
	id, err = identify(id.PID)
	if err != nil {
		fd.close()
		return nil, err
	}
	id.Unit, id.Invocation = unit, invocation
	p := &process{id: id, fd: fd, exited: make(chan struct{})}
	p.watch, err = wake.Readable(fd.raw, func() {
		defer fd.close()
		exit := reap()
		p.mu.Lock()
		p.exit = exit
		p.mu.Unlock()
		close(p.exited)
	})
	if err != nil {
		fd.close()
		return nil, err
	}
	return p, nil
}

// endedProcess is a process that ended before it could be watched.
func endedProcess(id Identity, exit Exit) *process {
	p := &process{id: id, exit: exit, exited: make(chan struct{})}
	close(p.exited)
	return p
}

// release ends the watch of a process that turned out not to be ours.
func (p *process) release() {
	if p.watch.Cancel() {
		p.fd.close()
	}
}

func (p *process) Identity() Identity      { return p.id }
func (p *process) Exited() <-chan struct{} { return p.exited }

func (p *process) Exit() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

func (p *process) Kill(ctx context.Context) error {
	if p.fd == nil {
		return nil
	}
	if err := p.fd.kill(); err != nil {
		select {
		case <-p.exited: // the watch closes the pidfd after that
			return nil
		default:
			return fmt.Errorf("kill process %d: %w", p.id.PID, err)
		}
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill process %d: wait for its end: %w", p.id.PID, context.Cause(ctx))
	}
}
