package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/secexec/secexec/hostagent/wake"
)

// CommandTimeout bounds each QMP command (and the greeting) whose context has no
// earlier deadline. QEMU answers in microseconds; one that does not is stuck.
const CommandTimeout = 10 * time.Second

// maxEvents bounds the events that wait to be read; the last eventReserve places
// are kept for those that tell how a guest ends.
const (
	maxEvents    = 24
	eventReserve = 8
)

// ErrClosed says that the QMP connection has ended: QEMU exited, or Close.
var ErrClosed = errors.New("QMP connection is closed")

// Monitor is a QMP connection to one QEMU. Its methods may be called from many
// goroutines. The owner calls Close.
type Monitor struct {
	conn    net.Conn
	watch   Observer
	release Release
	events  chan Event
	done    chan struct{} // closed when the reader has ended
	closing chan struct{} // closed by Close, once
	once    sync.Once
	write   chan struct{} // holds one token; its holder may write

	// Of the reader: one goroutine at a time, none while QEMU says nothing.
	raw    syscall.RawConn // nil: it waits in a goroutine
	lines  *bufio.Reader
	window time.Time // since when got counts
	got    int       // bytes

	mu      sync.Mutex // guards the rest
	next    uint64
	waiting map[uint64]chan reply
	dropped uint64
	failure error // why the reader ended
	hungUp  bool
	parked  *wake.Call // of the reader, which waits
}

// Status is QEMU's run state.
type Status struct {
	Running bool   `json:"running"`
	State   string `json:"status"` // such as prelaunch, running, paused, shutdown, guest-panicked
}

// Dial connects to the QMP socket of a QEMU, waiting for the socket to appear
// until the context is done. A caller that started the process cancels the
// context when the process ends.
func Dial(ctx context.Context, path string) (*Monitor, error) {
	conn, err := DialSocket(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("connect to QMP: %w", err)
	}
	m, err := newMonitor(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to QMP at %s: %w", path, err)
	}
	return m, nil
}

// newMonitor takes over conn if it succeeds.
func newMonitor(ctx context.Context, conn net.Conn) (*Monitor, error) {
	ctx, cancel := context.WithTimeout(ctx, CommandTimeout)
	defer cancel()
	// The greeting is read here, before the reader starts, so the context must
	// be able to end that read.
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	lines := bufio.NewReaderSize(conn, 512) // a hundred guests have a hundred of them
	line, err := readLine(lines)
	if !stop() {
		return nil, fmt.Errorf("wait for greeting: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("read greeting: %w", err)
	}
	msg, err := decode(line)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read greeting: %w", err)
	case msg.greeting == nil:
		return nil, fmt.Errorf("read greeting: %w: another message came first", ErrProtocol)
	}
	m := &Monitor{
		conn:    conn,
		watch:   observerOf(ctx),
		release: msg.greeting.Release,
		events:  make(chan Event, maxEvents),
		done:    make(chan struct{}),
		closing: make(chan struct{}),
		write:   make(chan struct{}, 1),
		waiting: make(map[uint64]chan reply),
		lines:   lines,
		window:  time.Now(),
	}
	if c, ok := conn.(syscall.Conn); ok {
		if m.raw, err = c.SyscallConn(); err != nil {
			return nil, err
		}
	}
	m.write <- struct{}{}
	go m.read()
	if err := m.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Release is what QEMU said of itself in its greeting.
func (m *Monitor) Release() Release { return m.release }

// Events is where QEMU's events arrive; it is closed when the connection ends.
// A reader that is too slow loses events, which Dropped counts: how a guest ends
// is told by its process, never by an event alone.
func (m *Monitor) Events() <-chan Event { return m.events }

// Dropped is the number of events lost so far.
func (m *Monitor) Dropped() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dropped
}

// Done is closed when the connection has ended; Err says why.
func (m *Monitor) Done() <-chan struct{} { return m.done }

// Err is why the connection ended: nil before that, ErrClosed in the ordinary
// case, ErrProtocol wrapped if QEMU sent what it may not.
func (m *Monitor) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failure
}

// Close ends the connection and waits for the reader. QEMU runs on.
func (m *Monitor) Close() error {
	m.once.Do(func() { close(m.closing) })
	err := m.hangUp()
	<-m.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// hangUp closes the connection, which ends the reader.
func (m *Monitor) hangUp() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hungUp = true
	err := m.conn.Close()
	if m.parked != nil && m.parked.Cancel() {
		go m.read()
	}
	return err
}

// park lets the reader end and go on in another goroutine when QEMU says
// something. It tells whether it may end.
func (m *Monitor) park() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.raw == nil || m.hungUp {
		return false
	}
	call, err := wake.Readable(m.raw, m.read)
	m.parked = call
	return err == nil
}

// Status asks for the run state.
func (m *Monitor) Status(ctx context.Context) (Status, error) {
	var s Status
	err := m.Execute(ctx, "query-status", nil, &s)
	s.State = clip(s.State)
	return s, err
}

// Cont lets a stopped guest run.
func (m *Monitor) Cont(ctx context.Context) error { return m.Execute(ctx, "cont", nil, nil) }

// SystemPowerdown asks the guest's operating system to power off (SCLP signal
// quiesce). The guest may ignore it.
func (m *Monitor) SystemPowerdown(ctx context.Context) error {
	return m.Execute(ctx, "system_powerdown", nil, nil)
}

// Quit ends QEMU. That the connection ends before the answer is no error.
func (m *Monitor) Quit(ctx context.Context) error {
	err := m.Execute(ctx, "quit", nil, nil)
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

// Property reads a property of an object of the machine into out, for instance
// iommu_platform of /machine/peripheral/root.
func (m *Monitor) Property(ctx context.Context, path, property string, out any) error {
	return m.Execute(ctx, "qom-get", map[string]string{"path": path, "property": property}, out)
}

// Execute runs one command and decodes what it returns into out unless out is
// nil. A refusal by QEMU is a *CommandError.
func (m *Monitor) Execute(ctx context.Context, command string, arguments, out any) error {
	return m.execute(ctx, command, arguments, out, nil)
}

// execute is Execute with a file whose descriptor goes along, or nil.
func (m *Monitor) execute(ctx context.Context, command string, arguments, out any, file *os.File) (err error) {
	defer func(start time.Time) { m.watch.Command(command, time.Since(start), err) }(time.Now())
	ctx, cancel := context.WithTimeout(ctx, CommandTimeout)
	defer cancel()
	answer := make(chan reply, 1)
	m.mu.Lock()
	if m.failure != nil {
		m.mu.Unlock()
		return fmt.Errorf("QMP %s: %w", command, m.failure)
	}
	m.next++
	id := m.next
	m.waiting[id] = answer
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.waiting, id)
		m.mu.Unlock()
	}()

	text, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	if err := m.send(ctx, append(text, '\n'), file); err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	var r reply
	select {
	case r = <-answer:
	case <-ctx.Done():
		return fmt.Errorf("QMP %s: no answer: %w", command, context.Cause(ctx))
	case <-m.done:
		// The answer may have come just before the end.
		select {
		case r = <-answer:
		default:
			return fmt.Errorf("QMP %s: %w", command, m.Err())
		}
	}
	switch {
	case r.err != nil:
		return fmt.Errorf("QMP %s: %w", command, r.err)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(r.ret, out); err != nil {
		return fmt.Errorf("QMP %s: %w: %v", command, ErrProtocol, err)
	}
	return nil
}

// send writes one message. A message that was cut short by the context leaves
// the stream in an unknown state, so the connection is closed then.
func (m *Monitor) send(ctx context.Context, text []byte, file *os.File) error {
	select {
	case <-m.write:
	case <-ctx.Done():
		return fmt.Errorf("wait to send: %w", context.Cause(ctx))
	case <-m.done:
		return m.Err()
	}
	defer func() { m.write <- struct{}{} }()
	stop := context.AfterFunc(ctx, func() { m.conn.SetWriteDeadline(time.Unix(1, 0)) })
	err := m.writeWith(text, file)
	if !stop() || err != nil {
		m.hangUp()
		if ctx.Err() != nil {
			return fmt.Errorf("send: %w", context.Cause(ctx))
		}
		return ErrClosed
	}
	return nil
}

// read is the reader: it runs until the connection ends and waits for nothing
// else, but when QEMU sends more than maxRate.
func (m *Monitor) read() {
	failure := ErrClosed
	for {
		line, err := readLine(m.lines)
		if m.got += len(line); m.got >= maxRate {
			select {
			case <-time.After(time.Until(m.window.Add(time.Second))):
			case <-m.closing:
			}
			m.window, m.got = time.Now(), 0
		}
		if err != nil {
			if errors.Is(err, ErrProtocol) {
				failure = err
			}
			break
		}
		msg, err := decode(line)
		if err != nil {
			failure = err
			break
		}
		switch {
		case msg.event != nil:
			m.deliver(*msg.event)
		case msg.reply != nil:
			m.answer(*msg.reply)
		default:
			failure = fmt.Errorf("%w: second greeting", ErrProtocol)
		}
		if !errors.Is(failure, ErrClosed) {
			break
		}
		if m.lines.Buffered() == 0 && m.park() {
			return
		}
	}
	m.conn.Close()
	m.mu.Lock()
	m.failure = failure
	m.mu.Unlock()
	close(m.events)
	close(m.done)
}

// answer hands a reply to its command. One that nobody waits for any more is
// late and is dropped.
func (m *Monitor) answer(r reply) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.waiting[r.id]; c != nil {
		delete(m.waiting, r.id)
		c <- r // has room for its one reply
	}
}

// deliver hands on an event or drops it. Only the reader sends on the channel,
// so the room it sees can only grow.
func (m *Monitor) deliver(e Event) {
	room := cap(m.events) - len(m.events)
	if !telling[e.Name] {
		room -= eventReserve
	}
	if room > 0 {
		m.events <- e
		return
	}
	m.mu.Lock()
	m.dropped++
	m.mu.Unlock()
	m.watch.Dropped()
}

// telling are the events that say how a guest ends.
var telling = map[string]bool{"SHUTDOWN": true, "GUEST_PANICKED": true, "GUEST_CRASHLOADED": true, "RESET": true, "STOP": true}

// readLine reads up to and with a line end. It holds no more memory than the
// line needs.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, fmt.Errorf("%w: line of more than %d bytes", ErrProtocol, maxLine)
		}
		switch {
		case err == nil && line == nil:
			return part, nil // valid until the next read; decode copies what it keeps
		case err == nil:
			return append(line, part...), nil
		case errors.Is(err, bufio.ErrBufferFull):
			line = append(line, part...)
		default:
			return nil, fmt.Errorf("%w: %v", ErrClosed, err)
		}
	}
}
