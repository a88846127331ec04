package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/secexec/secexec/proto/channel"
	"github.com/secexec/secexec/proto/guestagent/v1"
	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/proto/workload"
	"github.com/secexec/secexec/sealed"
)

// agentUnderTest is guestagent's end of a channel with what it does to the guest.
type agentUnderTest struct {
	channel *ownersChannel
	memory  *memory
	status  Status
	files   map[string]string
	told    []string
	program *fakeProgram
}

func seed(b byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, 32)) }

// newAgentUnderTest serves a plan with two secrets over a connection, whose other
// end it returns. supervised: guestinit runs a workload.
func newAgentUnderTest(t *testing.T, exec, supervised bool) (*agentUnderTest, guestagentv1.GuestagentClient) {
	t.Helper()
	a := &agentUnderTest{files: make(map[string]string)}
	h := handoffOf(7, 3)
	h.StopSignal = 38
	h.Channel = &sealed.Channel{
		Clients: [][32]byte{[32]byte(seed(2).Public().(ed25519.PublicKey))}, Exec: exec,
		Secrets: []sealed.SecretFile{{Name: "a", Mode: 0o400}, {Name: "b", Mode: 0o400}},
	}
	s := &service{
		plan: h.Channel, agent: func() Status { return a.status }, uptime: func() uint64 { return 5 },
		write: func(f sealed.SecretFile, content []byte) error { a.files[f.Name] = string(content); return nil },
		spawn: func(start *guestagentv1.ExecStart) (program, error) {
			if start.Args[0] != "fake" {
				return nil, errors.New("no such program in the root")
			}
			return a.program, nil
		},
	}
	if supervised {
		h.StopSignal = 0
		s.tell = func(m workload.Message) { a.told = append(a.told, string(m.Bytes())) }
	}
	var err error
	if a.channel, err = newChannel(h, seed(1), s); err != nil {
		t.Fatal(err)
	}
	a.memory = s.memory
	host, guest := buffered(t)
	go func() { _ = a.channel.serve(guest) }()
	config, err := channel.ClientTLS(seed(2), seed(1).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	session, err := channel.Dial(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(tls.Client(session, config))
	t.Cleanup(func() { client.Close() })
	return a, guestagentv1.NewGuestagentClient(client)
}

func buffered(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err == nil {
		b, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestSecretsAndStatus(t *testing.T) {
	t.Parallel()
	a, c := newAgentUnderTest(t, false, true)
	ctx := t.Context()
	deliver := func(name, content string) (string, error) {
		r, err := c.DeliverSecret(ctx, &guestagentv1.DeliverSecretRequest{Name: name, Content: []byte(content)})
		return strings.Join(r.GetMissing(), " "), err
	}
	if missing, err := deliver("a", "one"); err != nil || missing != "b" || len(a.told) != 0 {
		t.Errorf("first: %q, %v, told %v", missing, err, a.told)
	}
	for name, want := range map[string]codes.Code{"c": codes.NotFound, "../a": codes.NotFound, "": codes.NotFound} {
		if _, err := deliver(name, "x"); status.Code(err) != want {
			t.Errorf("secret %q: %v", name, err)
		}
	}
	if _, err := deliver("b", strings.Repeat("x", maxSecret+1)); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a large one: %v", err)
	}
	if missing, err := deliver("b", strings.Repeat("x", maxSecret)); err != nil || missing != "" {
		t.Errorf("the last: %q, %v", missing, err)
	}
	if _, err := deliver("a", "two"); err != nil {
		t.Error(err)
	}
	if a.files["a"] != "two" || len(a.files["b"]) != maxSecret || len(a.files) != 2 {
		t.Errorf("files: %d, a is %q", len(a.files), a.files["a"])
	}
	if strings.Join(a.told, " ") != "SECRETS SECRETS" {
		t.Errorf("guestinit is told %q", a.told)
	}
	a.memory.hear(workload.Running{Restarts: 2}, 7)
	a.memory.hear(workload.Exited{Status: 3, Restarts: 2}, 8)
	a.status = Status{State: readiness.Ready, Text: "serves", Healthy: true, Stages: make([]readiness.Stage, 2)}
	s, err := c.Status(ctx, &guestagentv1.StatusRequest{})
	if err != nil || !s.Ready || s.UptimeMs != 5 || s.Says != "serves" || !s.Healthy || len(s.Stages) != 2 || s.Exec || s.Workload.State != exited || s.Workload.Status != 3 || !s.Secrets[0].Delivered {
		t.Errorf("status: %v, %v", s, err)
	}
	if _, err := c.Restart(ctx, &guestagentv1.RestartRequest{}); err != nil || a.told[2] != "RESTART" {
		t.Errorf("restart: %v, %q", err, a.told)
	}
}

func TestGuestWithAnInit(t *testing.T) {
	t.Parallel()
	_, c := newAgentUnderTest(t, false, false)
	if _, err := c.Restart(t.Context(), &guestagentv1.RestartRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("restart: %v", err)
	}
	if _, err := c.Logs(t.Context(), &guestagentv1.LogsRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("logs: %v", err)
	}
	if s, err := c.Status(t.Context(), &guestagentv1.StatusRequest{}); err != nil || s.Workload != nil {
		t.Errorf("status: %v, %v", s, err)
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	a, c := newAgentUnderTest(t, false, true)
	type answer struct {
		r   *guestagentv1.LogsResponse
		err error
	}
	first := make(chan answer)
	go func() {
		r, err := c.Logs(t.Context(), &guestagentv1.LogsRequest{Wait: true})
		first <- answer{r, err}
	}()
	time.Sleep(10 * time.Millisecond) // it may wait by now
	a.memory.hear(workload.Log{Err: true, Text: []byte("hello\n")}, 3)
	if got := <-first; got.err != nil || len(got.r.Entries) != 1 || string(got.r.Entries[0].Text) != "hello\n" || !got.r.Entries[0].Error || got.r.Entries[0].Number != 1 {
		t.Fatalf("%v", got)
	}
	// What is kept is bounded, and the newest.
	const n = 200
	for range n {
		a.memory.hear(workload.Log{Text: make([]byte, 4000)}, 4)
	}
	var got []uint64
	for after := uint64(1); ; {
		r, err := c.Logs(t.Context(), &guestagentv1.LogsRequest{After: after})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Entries) == 0 {
			break
		}
		for _, e := range r.Entries {
			got = append(got, e.Number)
			after = e.Number
		}
	}
	if want := maxLogs / (4000 + entryCost); len(got) != want || got[len(got)-1] != n+1 || got[0] != n+2-uint64(want) {
		t.Errorf("%d entries from %v, wants %d", len(got), got[:1], want)
	}
}

func TestExecIsRefused(t *testing.T) {
	t.Parallel()
	try := func(c guestagentv1.GuestagentClient, start *guestagentv1.ExecStart) codes.Code {
		s, err := c.Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&guestagentv1.ExecInput{Start: start}); err != nil {
			t.Fatal(err)
		}
		_, err = s.Recv()
		return status.Code(err)
	}
	_, c := newAgentUnderTest(t, false, false)
	if code := try(c, &guestagentv1.ExecStart{Args: []string{"fake"}}); code != codes.PermissionDenied {
		t.Errorf("not in the plan: %v", code)
	}
	a, c := newAgentUnderTest(t, true, false)
	if code := try(c, &guestagentv1.ExecStart{Args: []string{"fake"}}); code != codes.FailedPrecondition {
		t.Errorf("before the hand-over: %v", code)
	}
	a.status.State = readiness.Running
	if code := try(c, &guestagentv1.ExecStart{Args: []string{"other"}}); code != codes.NotFound {
		t.Errorf("no program: %v", code)
	}
	if code := try(c, &guestagentv1.ExecStart{}); code != codes.InvalidArgument {
		t.Errorf("no arguments: %v", code)
	}
}

// fakeProgram copies its input to its output and ends with the input, with 3.
type fakeProgram struct {
	*io.PipeWriter
	in    *io.PipeReader
	size  chan int
	once  sync.Once
	ended chan struct{}
	kills int
	mu    sync.Mutex
}

func newFakeProgram() *fakeProgram {
	r, w := io.Pipe()
	return &fakeProgram{PipeWriter: w, in: r, size: make(chan int, 1), ended: make(chan struct{})}
}

func (p *fakeProgram) closeInput()           { p.PipeWriter.Close() }
func (p *fakeProgram) outputs() []io.Reader  { return []io.Reader{endTeller{p}} }
func (p *fakeProgram) resize(rows, cols int) { p.size <- rows*1000 + cols }
func (p *fakeProgram) signal(int)            {}
func (p *fakeProgram) wait() int             { <-p.ended; return 3 }
func (p *fakeProgram) close()                {}
func (p *fakeProgram) end()                  { p.once.Do(func() { close(p.ended) }) }
func (p *fakeProgram) kill() {
	p.mu.Lock()
	p.kills++
	p.mu.Unlock()
	p.in.CloseWithError(io.ErrClosedPipe)
}

// endTeller is the output of a program that ends with its input.
type endTeller struct{ p *fakeProgram }

func (e endTeller) Read(b []byte) (int, error) {
	n, err := e.p.in.Read(b)
	if err != nil {
		e.p.end()
	}
	return n, err
}

func startFake(t *testing.T, ctx context.Context) (*fakeProgram, guestagentv1.Guestagent_ExecClient) {
	t.Helper()
	a, c := newAgentUnderTest(t, true, false)
	a.status.State = readiness.Running
	a.program = newFakeProgram()
	s, err := c.Exec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&guestagentv1.ExecInput{Start: &guestagentv1.ExecStart{Args: []string{"fake"}}}); err != nil {
		t.Fatal(err)
	}
	return a.program, s
}

func TestExecConverses(t *testing.T) {
	t.Parallel()
	p, s := startFake(t, t.Context())
	send := func(m *guestagentv1.ExecInput) {
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	send(&guestagentv1.ExecInput{Size: &guestagentv1.ExecSize{Rows: 3, Columns: 7}})
	if got := <-p.size; got != 3007 {
		t.Errorf("size %d", got)
	}
	for range window {
		send(&guestagentv1.ExecInput{Stdin: bytes.Repeat([]byte("x"), maxInput)})
	}
	send(&guestagentv1.ExecInput{End: true})
	bytesBack, taken := 0, 0
	for {
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.Status != nil {
			if *m.Status != 3 {
				t.Errorf("status %d", *m.Status)
			}
			break
		}
		taken += int(m.Taken)
		if bytesBack += len(m.Stdout); len(m.Stdout) > 0 {
			send(&guestagentv1.ExecInput{Taken: 1})
		}
	}
	if bytesBack != window*maxInput || taken != window {
		t.Errorf("%d bytes came back, %d messages were taken", bytesBack, taken)
	}
}

// A client that goes, or breaks the window, ends its program.
func TestExecEndsWithItsClient(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(s guestagentv1.Guestagent_ExecClient){
		"closes": func(s guestagentv1.Guestagent_ExecClient) { _ = s.CloseSend() },
		"floods": func(s guestagentv1.Guestagent_ExecClient) {
			for range 10 * window { // takes no output, so no input is taken in the end
				_ = s.Send(&guestagentv1.ExecInput{Stdin: make([]byte, maxInput)})
			}
		},
		"sends too much": func(s guestagentv1.Guestagent_ExecClient) {
			_ = s.Send(&guestagentv1.ExecInput{Stdin: make([]byte, maxInput+1)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, s := startFake(t, t.Context())
			leave(s)
			select {
			case <-p.ended:
			case <-time.After(30 * time.Second):
				t.Fatal("the program goes on")
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.kills == 0 {
				t.Error("it ended by itself")
			}
		})
	}
}
