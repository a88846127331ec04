package platform

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/secexec/secexec/hostagent/qemu"
	"github.com/secexec/secexec/secret"
)

// standIn is one run of the ultravisor's stand-in process.
type standIn struct {
	gdb  string // QEMU's gdb socket
	ram  string // file with the guest's memory
	size int64  // its size in bytes
	host string // the emulated host's folder

	firmware bool // the guest's firmware loads the image from a disk

	decide decider
}

// decider lets a stopped guest run up to the ultravisor's decision and past it.
// A refusal is an error that wraps a *RefusedError. ram is the guest's memory,
// shared with QEMU; the decider closes nothing.
type decider func(ctx context.Context, gdb net.Conn, ram []byte, hostKey secret.Bytes, log *slog.Logger) error

// dialTimeout bounds the wait for QEMU's gdb socket.
const dialTimeout = 20 * time.Second

// StandIn is hostagent's hidden mode "ultravisor": the process that stands in for
// Z firmware for one guest and then ends. It holds the emulated host's private
// key and, for a moment, the guest's image keys: it makes no core dump, and it
// ends when standard input does, that is, with the hostagent that started it.
//
// Its result is one line of JSON on standard output; StandIn returns an error
// only if there is none.
func StandIn(ctx context.Context, args []string) error {
	s, err := parseStandIn(args)
	if err != nil {
		return err
	}
	s.decide = decide
	if s.firmware {
		s.decide = decideDisk
	}
	if err := hideMemory(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with the process
		io.Copy(io.Discard, os.Stdin)
		cancel(errors.New("hostagent ended"))
	}()
	_, err = os.Stdout.Write(s.run(ctx).marshal())
	return err
}

func parseStandIn(args []string) (*standIn, error) {
	var s standIn
	f := flag.NewFlagSet("ultravisor", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&s.gdb, "gdb", "", "gdb socket")
	f.StringVar(&s.ram, "ram", "", "memory file")
	f.Int64Var(&s.size, "size", 0, "memory size in bytes")
	f.StringVar(&s.host, "host", "", "folder of the emulated host")
	f.BoolVar(&s.firmware, "firmware", false, "firmware loads the image from a disk")
	if err := f.Parse(args); err != nil {
		return nil, fmt.Errorf("ultravisor: %w", err)
	}
	if f.NArg() > 0 || s.gdb == "" || s.ram == "" || s.host == "" || s.size <= 0 || s.size > qemu.MaxMemoryMiB<<20 {
		return nil, errors.New("ultravisor: wants --gdb SOCKET --ram FILE --size BYTES --host DIR; hostagent starts this mode by itself")
	}
	return &s, nil
}

// run does the work and says how it went.
func (s *standIn) run(ctx context.Context) result {
	err := s.boot(ctx)
	var refused *RefusedError
	switch {
	case err == nil:
		return result{Running: true}
	case errors.As(err, &refused):
		return result{Refused: refused}
	}
	return result{Failed: oneLine(err.Error())}
}

func (s *standIn) boot(ctx context.Context) error {
	key, err := readKey(s.host)
	if err != nil {
		return err
	}
	defer key.Wipe()
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	gdb, err := qemu.DialSocket(dialing, s.gdb)
	if err != nil {
		return fmt.Errorf("connect to gdb stub: %w", err)
	}
	defer gdb.Close()
	ram, err := mapMemory(s.ram, s.size)
	if err != nil {
		return err
	}
	defer ram.Close()
	// Whoever opens the file from here on finds nothing.
	if err := os.Remove(s.ram); err != nil {
		return fmt.Errorf("unlink memory file: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return s.decide(ctx, gdb, ram.bytes, key, log)
}
