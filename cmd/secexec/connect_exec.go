package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/secexec/secexec/proto/guestagent/v1"
)

// The guest's rules of an exec: so many messages with bytes that it has not
// taken, each with so many bytes.
const (
	execWindow = 16
	execPiece  = 4 << 10
)

// execution is a program to run in a guest.
type execution struct {
	args, env             []string
	interactive, terminal bool
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// run runs it and returns its status as a statusError.
func (e *execution) run(cmd *cobra.Command, g guestagentv1.GuestagentClient) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	stream, err := g.Exec(ctx)
	if err != nil {
		return err
	}
	start := &guestagentv1.ExecStart{Args: e.args, Env: e.env, Terminal: e.terminal}
	if e.terminal {
		start.Size = terminalSize()
		if name := os.Getenv("TERM"); name != "" {
			start.Env = append([]string{"TERM=" + name}, start.Env...)
		}
		old, err := term.MakeRaw(int(os.Stdin.Fd()))
		if err != nil {
			return err
		}
		defer term.Restore(int(os.Stdin.Fd()), old)
	}
	if err := stream.Send(&guestagentv1.ExecInput{Start: start}); err != nil {
		return err
	}
	ahead := make(chan struct{}, execWindow)
	if e.terminal {
		go followSize(ctx, stream)
	}
	if e.interactive {
		go sendInput(ctx, cmd.InOrStdin(), stream, ahead)
	} else if err := stream.Send(&guestagentv1.ExecInput{End: true}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		case m.Status != nil && *m.Status == 0:
			return nil
		case m.Status != nil:
			return statusError(*m.Status)
		}
		for range min(m.Taken, execWindow) {
			select {
			case <-ahead:
			default:
			}
		}
		if len(m.Stdout)+len(m.Stderr) == 0 {
			continue
		}
		if _, err := cmd.OutOrStdout().Write(m.Stdout); err != nil {
			return err
		}
		if _, err := cmd.ErrOrStderr().Write(m.Stderr); err != nil {
			return err
		}
		if err := stream.Send(&guestagentv1.ExecInput{Taken: 1}); err != nil {
			return err
		}
	}
}

// sendInput passes input on until its end. It may be left waiting for input when
// the program has ended, as this one is about to.
func sendInput(ctx context.Context, in io.Reader, stream guestagentv1.Guestagent_ExecClient, ahead chan<- struct{}) {
	for {
		buf := make([]byte, execPiece)
		n, err := in.Read(buf)
		if n > 0 {
			select {
			case ahead <- struct{}{}:
			case <-ctx.Done():
				return
			}
			if stream.Send(&guestagentv1.ExecInput{Stdin: buf[:n]}) != nil {
				return
			}
		}
		if err != nil {
			_ = stream.Send(&guestagentv1.ExecInput{End: true})
			return
		}
	}
}

// followSize tells the guest of each new size of the terminal.
func followSize(ctx context.Context, stream guestagentv1.Guestagent_ExecClient) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	defer signal.Stop(changes)
	for {
		select {
		case <-changes:
			if stream.Send(&guestagentv1.ExecInput{Size: terminalSize()}) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// terminalSize is nil where it is not known.
func terminalSize() *guestagentv1.ExecSize {
	columns, rows, err := term.GetSize(int(os.Stdin.Fd()))
	if err != nil {
		return nil
	}
	return &guestagentv1.ExecSize{Rows: uint32(rows), Columns: uint32(columns)}
}
