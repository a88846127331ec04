package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/proto/guestagent/v1"
)

// maxSecret is what a guest takes, in bytes.
const maxSecret = 64 << 10

func newConnectStatus() *cobra.Command {
	f := new(connectFlags)
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "status GUEST --secrets DIR",
		Short:   "Show how a guest is, by its own words",
		Example: "  secexec connect status web --secrets web-secrets --json",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.status(cmd, args[0], asJSON) },
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// guestStatus is a guest's status as JSON.
type guestStatus struct {
	Ready    bool              `json:"ready"`
	Says     string            `json:"says"` // the workload
	Healthy  bool              `json:"healthy"`
	UptimeMs uint64            `json:"uptime_ms"`
	Stages   map[string]uint64 `json:"stages"`  // milliseconds since the kernel started
	Secrets  map[string]bool   `json:"secrets"` // whether they are there
	Exec     bool              `json:"exec"`
	Workload *guestWorkload    `json:"workload,omitempty"`
}

type guestWorkload struct {
	State    string `json:"state"`
	Status   uint32 `json:"status"`
	Restarts uint32 `json:"restarts"`
}

func (f *connectFlags) status(cmd *cobra.Command, name string, asJSON bool) error {
	return f.with(cmd.Context(), name, func(g guestagentv1.GuestagentClient) error {
		r, err := callGuest(cmd.Context(), channelTimeout, g.Status, &guestagentv1.StatusRequest{})
		if err != nil {
			return err
		}
		if asJSON {
			s := guestStatus{Ready: r.Ready, Says: r.Says, Healthy: r.Healthy, UptimeMs: r.UptimeMs, Exec: r.Exec, Stages: make(map[string]uint64), Secrets: make(map[string]bool)}
			for _, stage := range r.Stages {
				s.Stages[stage.Name] = stage.Millis
			}
			for _, secret := range r.Secrets {
				s.Secrets[secret.Name] = secret.Delivered
			}
			if w := r.Workload; w != nil {
				s.Workload = &guestWorkload{w.State, w.Status, w.Restarts}
			}
			return printJSON(cmd, s)
		}
		return term.Fields(cmd.OutOrStdout(), statusLines(r)...)
	})
}

// statusLines are a status for people.
func statusLines(r *guestagentv1.StatusResponse) []string {
	word := "not ready"
	if r.Ready {
		word = "ready"
	}
	var stages, secrets []string
	for _, s := range r.Stages {
		stages = append(stages, fmt.Sprintf("%s %.1f s", s.Name, float64(s.Millis)/1000))
	}
	for _, s := range r.Secrets {
		where := "missing"
		if s.Delivered {
			where = "there"
		}
		secrets = append(secrets, s.Name+" "+where)
	}
	workload := "the root's own init"
	if w := r.Workload; w != nil {
		workload = w.State
		if w.State == "exited" || w.State == "done" {
			workload += fmt.Sprintf(" with %d", w.Status)
		}
		workload += fmt.Sprintf(", %d restarts", w.Restarts)
	}
	if r.Says != "" {
		workload += ": " + term.Printable(r.Says)
	}
	if !r.Healthy {
		workload += ", its watchdog barked"
	}
	lines := []string{
		"guest", fmt.Sprintf("%s, up %s", word, (time.Duration(r.UptimeMs) * time.Millisecond).Round(time.Second)),
		"stages", strings.Join(stages, ", "),
		"workload", workload,
	}
	if len(secrets) > 0 {
		lines = append(lines, "secrets", strings.Join(secrets, ", "))
	}
	allowed := "not allowed by the sealed plan"
	if r.Exec {
		allowed = "allowed"
	}
	return append(lines, "exec", allowed)
}

func newConnectSecret() *cobra.Command {
	f := new(connectFlags)
	var from string
	cmd := &cobra.Command{
		Use:   "secret GUEST NAME --from FILE --secrets DIR",
		Short: "Deliver a secret that the sealed plan names",
		Long: `Secret writes a file in the guest's memory, /run/secexec/secrets/NAME, with the
rights that the plan gives it. A file that is there is replaced in one step. A
workload that waits for secrets starts when all are there.`,
		Example: "  secexec connect secret web tls.key --from tls.key --secrets web-secrets",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			content, err := readSecret(cmd, from)
			if err != nil {
				return fmt.Errorf("read secret: %w", err)
			}
			defer clear(content)
			return f.with(cmd.Context(), args[0], func(g guestagentv1.GuestagentClient) error {
				r, err := callGuest(cmd.Context(), channelTimeout, g.DeliverSecret, &guestagentv1.DeliverSecretRequest{Name: args[1], Content: content})
				if err != nil {
					return err
				}
				if len(r.Missing) > 0 {
					fmt.Fprintf(cmd.OutOrStdout(), "%s delivered; missing: %s\n", args[1], strings.Join(r.Missing, ", "))
					return nil
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s delivered, all secrets are there\n", args[1])
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "file with the secret, - for standard input")
	_ = cmd.MarkFlagRequired("from")
	f.add(cmd)
	return cmd
}

func readSecret(cmd *cobra.Command, from string) ([]byte, error) {
	if from != "-" {
		return readSmall(from, maxSecret)
	}
	content, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxSecret+1))
	if err == nil && len(content) > maxSecret {
		err = fmt.Errorf("more than %d bytes", maxSecret)
	}
	return content, err
}

func newConnectLogs() *cobra.Command {
	f := new(connectFlags)
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs GUEST --secrets DIR",
		Short: "Print what the guest's workload wrote",
		Long: `Logs prints the last 256 KiB of what the workload wrote to its standard output and
error, each to this program's own. Its host can't read them. A guest with an init
of its own has its own logs, and none here.`,
		Example: "  secexec connect logs --follow web --secrets web-secrets",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd.Context(), args[0], func(g guestagentv1.GuestagentClient) error { return printLogs(cmd, g, follow) })
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	f.add(cmd)
	return cmd
}

func printLogs(cmd *cobra.Command, g guestagentv1.GuestagentClient, follow bool) error {
	for after := uint64(0); ; {
		r, err := callGuest(cmd.Context(), 2*channelTimeout, g.Logs, &guestagentv1.LogsRequest{After: after, Wait: follow})
		if err != nil {
			return err
		}
		for _, e := range r.Entries {
			if after > 0 && e.Number > after+1 {
				fmt.Fprintf(cmd.ErrOrStderr(), "secexec: %d lines were overwritten before they were read\n", e.Number-after-1)
			}
			after = e.Number
			out := cmd.OutOrStdout()
			if e.Error {
				out = cmd.ErrOrStderr()
			}
			if _, err := out.Write(e.Text); err != nil {
				return err
			}
		}
		if len(r.Entries) == 0 && !follow {
			return nil
		}
	}
}

func newConnectRestart() *cobra.Command {
	f := new(connectFlags)
	cmd := &cobra.Command{
		Use:     "restart GUEST --secrets DIR",
		Short:   "Stop the guest's workload in order and run it again",
		Example: "  secexec connect restart web --secrets web-secrets",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(cmd.Context(), args[0], func(g guestagentv1.GuestagentClient) error {
				_, err := callGuest(cmd.Context(), channelTimeout, g.Restart, &guestagentv1.RestartRequest{})
				return err
			})
		},
	}
	f.add(cmd)
	return cmd
}

func newConnectExec() *cobra.Command {
	f := new(connectFlags)
	var e execution
	cmd := &cobra.Command{
		Use:   "exec GUEST --secrets DIR -- PROGRAM [ARGUMENT]...",
		Short: "Run a program in the guest, if the sealed plan allows it",
		Long: `Exec runs a program in the guest's root as root, in a cgroup of its own beside
the workload, and exits with its status. The plan must have been sealed with
--channel-exec. What the program leaves behind is ended with it.`,
		Example: "  secexec connect exec web --secrets web-secrets -it -- /bin/sh",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.terminal && !isTerminal(os.Stdin) {
				return usageError{errors.New("--terminal wants this program to have one")}
			}
			e.args = args[1:]
			return f.with(cmd.Context(), args[0], func(g guestagentv1.GuestagentClient) error { return e.run(cmd, g) })
		},
	}
	cmd.Flags().SetInterspersed(true)
	cmd.Flags().BoolVarP(&e.interactive, "interactive", "i", false, "pass standard input on")
	cmd.Flags().BoolVarP(&e.terminal, "terminal", "t", false, "give the program a terminal")
	cmd.Flags().StringArrayVarP(&e.env, "env", "e", nil, "`NAME=VALUE` for the program's environment (repeatable)")
	f.add(cmd)
	return cmd
}
