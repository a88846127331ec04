package owner

import (
	"context"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/secexec/secexec/rootdisk/oci"
	"github.com/secexec/secexec/sealed"
)

// ErrWorkload is wrapped by every error about a workload that can't be run.
var ErrWorkload = errors.New("workload can't be run")

// Workload says how the one program of a root without an init is run. What it
// leaves out, the root's container image says, if it is one; what both leave
// out is as container engines have it.
type Workload struct {
	Entrypoint  []string // nil: the image's, whose Command then is the default; else Command alone follows
	Command     []string
	Env         []string // over the image's
	User        string   // USER[:GROUP], names or numbers
	Dir         string
	CapAdd      []string // to podman's defaults
	CapDrop     []string
	NoNewPrivs  bool
	StopSignal  uint8  // 0: the image's, or SIGTERM
	StopSeconds uint32 // 0: 10
	Restart     sealed.RestartPolicy
	MaxRestarts uint32
	WindowSecs  uint32 // 0 with MaxRestarts: 600
	Hostname    string // "": the plan's name
	Network     *sealed.Network
	NoNetwork   bool // else a Network of nil is DHCP
}

// Defaults of container engines.
const (
	defaultPath        = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultStopSeconds = 10 // podman-stop(1)
	defaultWindow      = 600
	sigTerm            = 15
)

// Where a root says who its users are.
const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
)

// image opens the configuration of the root's container image: an empty one
// where the root is none.
func (p *Plan) image(ctx context.Context) (*oci.Config, error) {
	if _, _, ok := oci.Transport(p.Root.Source); !ok {
		return &oci.Config{}, nil
	}
	img, err := oci.Open(ctx, p.Root.Source, oci.Options{SkipTLS: p.SkipTLS})
	if err != nil {
		return nil, err
	}
	return &img.Config, img.Close()
}

// inits are programs that are a system's init: podman knows the same ones by
// their names (podman-run(1), --systemd).
var inits = []string{"/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/bin/systemd", "/usr/bin/systemd"}

// resolveWorkload makes the plan's workload complete but for user, groups and
// home, which only the root knows. An image whose own command is an init is
// handed over to: then the plan has no workload any more.
func (p *Plan) resolveWorkload(ctx context.Context) (*sealed.Workload, error) {
	if p.Workload == nil {
		return nil, nil
	}
	c, err := p.image(ctx)
	if err != nil {
		return nil, err
	}
	args := p.Workload.args(c)
	if len(args) == 1 && slices.Contains(inits, args[0]) {
		if w := *p.Workload; !reflect.DeepEqual(w, Workload{StopSignal: w.StopSignal}) {
			return nil, fmt.Errorf("%w: the image's program %s is an init, which is handed over to and makes its own settings: say init (--init) and nothing of a workload", ErrWorkload, args[0])
		}
		p.Workload, p.Init = nil, args[0]
		if p.StopSignal == 0 {
			p.StopSignal = DefaultStopSignal
		}
		return nil, nil
	}
	if p.Workload.User == "" {
		p.Workload.User = c.User
	}
	w, err := p.Workload.sealed(p.Name, c)
	if err != nil {
		return nil, err
	}
	p.warnOfImage(c)
	return w, nil
}

// args are the program and its arguments.
func (w *Workload) args(c *oci.Config) []string {
	switch {
	case w.Entrypoint != nil:
		return slices.Concat(w.Entrypoint, w.Command)
	case w.Command != nil:
		return slices.Concat(c.Entrypoint, w.Command)
	}
	return slices.Concat(c.Entrypoint, c.Cmd)
}

func (w *Workload) sealed(name string, c *oci.Config) (*sealed.Workload, error) {
	s := &sealed.Workload{
		Args: w.args(c), Env: mergeEnv(c.Env, w.Env), Dir: w.Dir, NoNewPrivs: w.NoNewPrivs, StopSignal: w.StopSignal, StopSeconds: w.StopSeconds,
		Restart: w.Restart, MaxRestarts: w.MaxRestarts, WindowSecs: w.WindowSecs, Hostname: w.Hostname, Network: w.Network,
	}
	if len(s.Args) == 0 {
		return nil, fmt.Errorf("%w: neither the plan nor the root's image says what program to run: give a command", ErrWorkload)
	}
	if s.Dir == "" {
		s.Dir = path.Clean("/" + c.WorkingDir)
	}
	var err error
	if s.Capabilities, s.Ambient, err = capabilities(w.CapAdd, w.CapDrop); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWorkload, err)
	}
	if s.StopSignal == 0 && c.StopSignal != "" {
		if s.StopSignal, err = parseSignal(c.StopSignal); err != nil {
			return nil, fmt.Errorf("%w: its stop signal: %w", ErrWorkload, err)
		}
	}
	if s.StopSignal == 0 {
		s.StopSignal = sigTerm
	}
	if s.StopSeconds == 0 {
		s.StopSeconds = defaultStopSeconds
	}
	if s.MaxRestarts > 0 && s.WindowSecs == 0 {
		s.WindowSecs = defaultWindow
	}
	if s.Hostname == "" && sealed.CheckHostname(name) == nil {
		s.Hostname = name
	}
	if s.Hostname != "" && variable(s.Env, "HOSTNAME") == "" {
		s.Env = append(s.Env, "HOSTNAME="+s.Hostname)
	}
	if s.Network == nil && !w.NoNetwork {
		s.Network = &sealed.Network{Source: sealed.DHCP}
	}
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWorkload, err)
	}
	return s, nil
}

// mergeEnv puts variables over others, in their order, with a PATH.
func mergeEnv(lists ...[]string) (out []string) {
	at := make(map[string]int)
	for _, s := range slices.Concat(append([][]string{{defaultPath}}, lists...)...) {
		name, _, _ := strings.Cut(s, "=")
		if i, ok := at[name]; ok {
			out[i] = s
			continue
		}
		at[name] = len(out)
		out = append(out, s)
	}
	return out
}

func variable(env []string, name string) string {
	for _, s := range env {
		if value, ok := strings.CutPrefix(s, name+"="); ok {
			return value
		}
	}
	return ""
}

// warnOfImage tells of what an image wants and a sealed guest does not do.
func (p *Plan) warnOfImage(c *oci.Config) {
	if c.Healthcheck != nil && len(c.Healthcheck.Test) > 0 && c.Healthcheck.Test[0] != "NONE" {
		p.warn("the image's health check is ignored")
	}
	var plain []string
	for dir := range c.Volumes {
		if !slices.ContainsFunc(p.Volumes, func(v Volume) bool { return v.Mount == path.Clean(dir) }) {
			plain = append(plain, dir)
		}
	}
	if len(plain) > 0 {
		slices.Sort(plain)
		p.warn("the image has data in volumes of its own: " + strings.Join(plain, ", ") + ": here they lie in the root, which a build makes anew, unless a volume is mounted there (--volume)")
	}
}

// as gives the workload the user that the root resolved it to.
func (a *Account) as(w *sealed.Workload) *sealed.Workload {
	w.UID, w.GID, w.Groups = a.UID, a.GID, a.Groups
	if variable(w.Env, "HOME") == "" {
		w.Env = append(w.Env, "HOME="+a.Home)
	}
	return w
}
