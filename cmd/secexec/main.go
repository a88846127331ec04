// Command secexec seals Linux workloads for IBM Secure Execution and runs them.
//
// The owner's commands (hostkey, image, disk, kernel, build, emulate) need no root
// rights and no hostagent; the operator's (create, run, ps, inspect, logs, events,
// stats, top, stop, kill, rm, move, verify, dump, node) and the owner's connect talk to hostagent over its socket.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
)

// version is stamped at build time.
var version = "devel"

// Exit statuses.
const (
	exitFailure = 1
	exitUsage   = 2 // wrong flags or arguments
	exitSignal  = 130
)

func main() { os.Exit(run()) }

func run() int {
	// Up to the end: a signal after the work is done must not make it a failure.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRoot().ExecuteContext(ctx)
	var silent statusError
	switch {
	case err == nil, errors.As(err, &silent):
	case ctx.Err() != nil || interrupted(err):
		fmt.Fprintln(os.Stderr, "secexec: interrupted")
		return exitSignal
	default:
		fmt.Fprintf(os.Stderr, "secexec: %s\n", term.Printable(err.Error()))
	}
	return statusOf(err)
}

// statusOf returns the exit status of a command that was not interrupted.
func statusOf(err error) int {
	var usage usageError
	var silent statusError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &silent):
		return int(silent)
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailure
}

// interrupted tells whether a program that a command called was interrupted: ^C
// goes to all of a terminal's processes, and that one's end may be known before
// this one's own signal.
func interrupted(err error) bool {
	var child *exec.ExitError
	if !errors.As(err, &child) {
		return false
	}
	status, ok := child.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && (status.Signal() == syscall.SIGINT || status.Signal() == syscall.SIGTERM)
}

// usageError marks what is wrong with flags or arguments.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// statusError is an exit status that says all; the command has printed its words.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "secexec",
		Short:         "Seal Linux workloads for IBM Secure Execution and run them",
		Version:       buildVersion(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
	})
	root.AddGroup(
		&cobra.Group{ID: "owner", Title: "Workload owner:"},
		&cobra.Group{ID: "operator", Title: "Provider operator:"},
	)
	for _, cmd := range []*cobra.Command{newHostkey(), newImage(), newDisk(), newBootdisk(), newKernel(), newBuild(), newBundle(), newKubernetes(), newConnect(), newEmulate()} {
		cmd.GroupID = "owner"
		root.AddCommand(cmd)
	}
	for _, cmd := range []*cobra.Command{
		newCreate(), newRun(), newStart(), newPs(), newInspect(), newLogs(), newEvents(), newStats(), newTop(), newStop(), newKill(), newRm(), newMove(), newVerify(), newDump(), newNode(),
	} {
		cmd.GroupID = "operator"
		root.AddCommand(cmd)
	}
	checkArgs(root)
	return root
}

// checkArgs marks what is wrong with any command's arguments, and required
// flags that are missing, as usage errors.
func checkArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := cmp.Or(check(cmd, args), cmd.ValidateRequiredFlags()); err != nil {
				return usageError{fmt.Errorf("%w: see %s --help", err, cmd.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		checkArgs(sub)
	}
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "devel" && info.Main.Version != "" {
		return info.Main.Version
	}
	return version
}
