package launch

import (
	"context"
	"fmt"
	"sync"

	"github.com/secexec/secexec/hostagent/wake"
)

// process is a process that is watched until it ends, which closes the pidfd.
type process struct {
	id     Identity
	fd     *pidfd
	exited chan struct{}

	mu   sync.Mutex // guards exit
	exit Exit
}

var _ Process = (*process)(nil)

// watch opens the process that has the number id.PID now and waits for its end;
// reap is called once then. Its unit is as id says, the rest of its identity as
// found. Unless check, which may be nil, is content with it, it is not watched:
// reap, which may use up what can be known of the end, is not called.
func watch(id Identity, check func(found Identity) error, reap func() Exit) (*process, error) {
	fd, err := openPidfd(id.PID)
	if err != nil {
		return nil, err
	}
	p := &process{fd: fd, exited: make(chan struct{})}
	p.id, err = identify(id.PID)
	p.id.Unit, p.id.Invocation = id.Unit, id.Invocation
	if err == nil && check != nil {
		err = check(p.id)
	}
	if err == nil {
		_, err = wake.Readable(fd.raw, func() {
			defer fd.close()
			exit := reap()
			p.mu.Lock()
			p.exit = exit
			p.mu.Unlock()
			close(p.exited)
		})
	}
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
