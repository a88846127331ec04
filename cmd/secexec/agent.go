package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/hostagent/client"
	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
)

// agentFlags are the flags of commands that talk to hostagent.
type agentFlags struct{ socket, tls string }

func (f *agentFlags) add(cmd *cobra.Command) {
	socket := client.DefaultSocket
	if env := os.Getenv("SECEXEC_SOCKET"); env != "" {
		socket = env
	}
	cmd.Flags().StringVar(&f.socket, "socket", socket, "hostagent's socket, or tcp://HOST:PORT of another machine's (also $SECEXEC_SOCKET)")
	cmd.Flags().StringVar(&f.tls, "tls", os.Getenv("SECEXEC_TLS"), "`folder` with ca.pem, cert.pem and key.pem, for tcp:// (also $SECEXEC_TLS)")
}

// with connects to hostagent and does something.
func (f *agentFlags) with(ctx context.Context, do func(*client.Client) error) error {
	c, err := dial(ctx, f.socket, f.tls)
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// path is a path as hostagent needs it: one that was typed here is on this
// machine, and another machine's hostagent looks on its own.
func (f *agentFlags) path(typed string) (string, error) {
	if strings.HasPrefix(f.socket, "tcp://") && !filepath.IsAbs(typed) {
		return "", usageError{fmt.Errorf("%s is looked for on %s: name it by its absolute path there", typed, f.socket)}
	}
	return filepath.Abs(typed)
}

// dial connects to a hostagent, to one on another machine with the files of a
// folder.
func dial(ctx context.Context, address, folder string) (*client.Client, error) {
	if folder == "" {
		return client.Dial(ctx, address, nil)
	}
	return client.Dial(ctx, address, client.TLSFolder(folder))
}

// each does something to every guest named, and goes on after a failure.
func (f *agentFlags) each(cmd *cobra.Command, names []string, do func(*client.Client, string) error) error {
	return f.with(cmd.Context(), func(c *client.Client) error {
		var failed error
		for _, name := range names {
			err := do(c, name)
			switch {
			case err == nil:
				fmt.Fprintln(cmd.OutOrStdout(), name)
			case failed == nil:
				failed = err
			default:
				fmt.Fprintln(cmd.ErrOrStderr(), "secexec:", err)
			}
		}
		return failed
	})
}

// stateWord is a guest's state for people, with the warning that belongs to it.
func stateWord(g *hostagentv1.Guest) string {
	word := g.State
	if g.Failure != nil {
		word += " (" + g.Failure.Code + ")"
	}
	switch {
	case g.ExitStatus != nil && (g.State == "stopped" || g.State == "failed"):
		word += fmt.Sprintf(", exited (%d)", *g.ExitStatus)
	case g.Unhealthy && (g.State == "running" || g.State == "ready"):
		word += ", unhealthy"
	case g.State == "running" && len(g.Stages) > 0 && g.Stages[len(g.Stages)-1].Name == "secrets":
		word += ", waits for secrets"
	}
	switch {
	case g.State != "waiting":
	case g.RestartUnixMs == 0:
		word += ", starts in its turn"
	default:
		word += ", starts in " + max(0, time.Until(time.UnixMilli(g.RestartUnixMs))).Round(time.Second).String()
	}
	if m := g.Move; m != nil && m.Phase != "taken" {
		word += ", " + m.Phase
	}
	return word
}

// platformWord never lets an unprotected guest pass as a protected one.
func platformWord(name string, protected bool) string {
	if protected {
		return name
	}
	return name + ", unprotected"
}

// ago is a time as podman ps shows it.
func ago(unixMillis int64) string {
	if unixMillis == 0 {
		return "-"
	}
	d := time.Since(time.UnixMilli(unixMillis))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d seconds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d minutes ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// stages shows stages with their times.
func stages(g *hostagentv1.Guest) string {
	var out []string
	for _, s := range g.Stages {
		out = append(out, fmt.Sprintf("%s %.1f s", s.Name, float64(s.Millis)/1000))
	}
	return strings.Join(out, ", ")
}
