package platform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// bootTimeout bounds the stand-in's work on one guest; gigabytes of image take
// it seconds.
const bootTimeout = 5 * time.Minute

// Boot implements [Platform]: it runs the stand-in on the stopped guest and
// returns what it decided. The stand-in is a process of its own and ends here,
// so that the host's private key and the image's keys never lie in the daemon.
//
// After a refusal the guest runs on for a moment: its boot loader prints the
// reason on the console and stops, which ends QEMU.
func (p Emulated) Boot(ctx context.Context, spec BootSpec) error {
	log := spec.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	cfg := spec.Config
	// QEMU answers once its machine is complete: guest memory is there, and the
	// image lies in it.
	status, err := spec.Monitor.Status(ctx)
	if err != nil {
		return fmt.Errorf("boot guest: %w", err)
	}
	if status.Running {
		return errors.New("boot guest: it runs already, past the ultravisor")
	}
	// Neither is of use once the stand-in has come to its end.
	defer os.Remove(cfg.GDBSocket)
	defer os.Remove(cfg.MemoryFile)

	program := p.Program
	if program == nil {
		// Not the path: the file there may have been replaced since.
		program = []string{"/proc/self/exe", "ultravisor"}
	}
	args := append(program[1:len(program):len(program)], "--gdb", cfg.GDBSocket, "--ram", cfg.MemoryFile,
		"--size", strconv.FormatInt(int64(cfg.MemoryMiB)<<20, 10), "--host", p.HostDir)
	if cfg.BootDisk {
		args = append(args, "--firmware")
	}
	cmd := exec.CommandContext(ctx, program[0], args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.WaitDelay = time.Second
	// The stand-in ends when this pipe does: so also when hostagent is killed.
	alive, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start ultravisor: %w", err)
	}
	defer alive.Close()
	out, words := &bounded{limit: maxResult}, &bounded{limit: maxWords}
	cmd.Stdout, cmd.Stderr = out, words
	log.Debug("start ultravisor stand-in", "guest", cfg.Name)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start ultravisor: %w", err)
	}
	ended := cmd.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("run ultravisor: %w", context.Cause(ctx))
	}
	res, err := parseResult(out.Bytes())
	switch {
	case err != nil && ended != nil:
		return fmt.Errorf("run ultravisor: %w: %s", ended, oneLine(words.String()))
	case err != nil:
		return fmt.Errorf("run ultravisor: %w", err)
	case res.Refused != nil:
		return fmt.Errorf("boot guest: %w", res.Refused)
	case res.Failed != "":
		return fmt.Errorf("run ultravisor: %w", errors.New(res.Failed))
	case ended != nil:
		return fmt.Errorf("run ultravisor: %w", ended)
	}
	return nil
}

// bounded keeps the first bytes of a program's output.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), b.limit-b.Len())])
	return len(p), nil
}

// maxWords bounds what is kept of a failed stand-in's last words.
const maxWords = 4096

// oneLine makes foreign text fit for one line of a log.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }), " ")
}
