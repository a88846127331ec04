package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/owner"
	"github.com/secexec/secexec/owner/buildfile"
	"github.com/secexec/secexec/rootdisk/oci"
	"github.com/secexec/secexec/sealed"
)

// addWorkload adds the flags of the workload section. They are called as
// podman-run(1) calls them, where it has them.
func (b *buildFlags) addWorkload(cmd *cobra.Command) {
	f, g, w := cmd.Flags(), &b.given, &b.given.Workload
	f.StringVar((*string)(&g.FromImage), "from-image", "", "container `IMAGE` whose program guestinit runs in the guest: docker:// oci: oci-archive: docker-archive:, or a path")
	b.field("from-image", "from_image", func(f *buildfile.File) { f.FromImage = g.FromImage })
	f.Var((*words)(&w.Entrypoint), "entrypoint", "`PROGRAM`, or a JSON array with arguments, in place of the image's")
	b.field("entrypoint", "workload.entrypoint", func(f *buildfile.File) { f.Workload.Entrypoint = w.Entrypoint })
	f.Var((*words)(&w.Command), "command", "`ARGUMENT`, or a JSON array of them, in place of the image's")
	b.field("command", "workload.command", func(f *buildfile.File) { f.Workload.Command = w.Command })
	f.StringArrayVar(&w.Env, "env", nil, "variable `NAME=VALUE` of the program (repeatable)")
	b.field("env", "workload.env", func(f *buildfile.File) { f.Workload.Env = w.Env })
	f.StringVar(&w.User, "user", "", "`USER[:GROUP]` of the program (default: the image's, or root)")
	b.field("user", "workload.user", func(f *buildfile.File) { f.Workload.User = w.User })
	f.StringVar(&w.Dir, "workdir", "", "working `DIR` of the program (default: the image's, or /)")
	b.field("workdir", "workload.working_dir", func(f *buildfile.File) { f.Workload.Dir = w.Dir })
	f.StringArrayVar(&w.CapAdd, "cap-add", nil, "`CAPABILITY` beside podman's default ones (repeatable)")
	b.field("cap-add", "workload.cap_add", func(f *buildfile.File) { f.Workload.CapAdd = w.CapAdd })
	f.StringArrayVar(&w.CapDrop, "cap-drop", nil, "`CAPABILITY` to take away (repeatable)")
	b.field("cap-drop", "workload.cap_drop", func(f *buildfile.File) { f.Workload.CapDrop = w.CapDrop })
	f.BoolVar(&w.NoNewPrivs, "no-new-privileges", false, "let set-user-ID programs give no rights")
	b.field("no-new-privileges", "workload.no_new_privileges", func(f *buildfile.File) { f.Workload.NoNewPrivs = w.NoNewPrivs })
	f.IntVar(&w.StopTime, "stop-timeout", 10, "`SECONDS` from the stop signal to a kill")
	b.field("stop-timeout", "workload.stop_timeout", func(f *buildfile.File) { f.Workload.StopTime = w.StopTime })
	f.StringVar(&w.Restart, "restart", "never", "run the program again when it ended: `never|on-failure|always`")
	b.field("restart", "workload.restart", func(f *buildfile.File) { f.Workload.Restart = w.Restart })
	f.IntVar(&w.MaxRestart, "max-restarts", 0, "at most `N` restarts in the window, then power off (default: no limit)")
	b.field("max-restarts", "workload.max_restarts", func(f *buildfile.File) { f.Workload.MaxRestart = w.MaxRestart })
	f.IntVar(&w.Window, "restart-window", 600, "`SECONDS` in which restarts count")
	b.field("restart-window", "workload.restart_window", func(f *buildfile.File) { f.Workload.Window = w.Window })
	f.StringVar(&w.Hostname, "hostname", "", "the guest's host `NAME` (default: the workload's)")
	b.field("hostname", "workload.hostname", func(f *buildfile.File) { f.Workload.Hostname = w.Hostname })
	n := &w.Network
	f.StringVar(&n.Mode, "network", "", "`dhcp|static|host|none` (default: dhcp, or static with --address)")
	b.field("network", "workload.network.mode", func(f *buildfile.File) { f.Workload.Network.Mode = n.Mode })
	f.StringArrayVar(&n.Addresses, "address", nil, "static `ADDRESS/BITS` (repeatable)")
	b.field("address", "workload.network.addresses", func(f *buildfile.File) { f.Workload.Network.Addresses = n.Addresses })
	f.StringArrayVar(&n.Gateways, "gateway", nil, "`ADDRESS` of the default router (repeatable)")
	b.field("gateway", "workload.network.gateways", func(f *buildfile.File) { f.Workload.Network.Gateways = n.Gateways })
	f.StringArrayVar(&n.DNS, "dns", nil, "`ADDRESS` of a name server (repeatable)")
	b.field("dns", "workload.network.dns", func(f *buildfile.File) { f.Workload.Network.DNS = n.DNS })
	f.StringArrayVar(&n.Search, "dns-search", nil, "search `DOMAIN` (repeatable)")
	b.field("dns-search", "workload.network.search", func(f *buildfile.File) { f.Workload.Network.Search = n.Search })
	f.IntVar(&n.MTU, "mtu", 0, "largest packet in `BYTES` (default: the device's)")
	b.field("mtu", "workload.network.mtu", func(f *buildfile.File) { f.Workload.Network.MTU = n.MTU })
}

// words is a flag of words: one, or a JSON array of them, as podman's
// --entrypoint.
type words []string

func (w *words) String() string { return strings.Join(*w, " ") }
func (w *words) Type() string   { return "string" }
func (w *words) Set(text string) error {
	if !strings.HasPrefix(text, "[") {
		*w = append(*w, text)
		return nil
	}
	if err := json.Unmarshal([]byte(text), (*[]string)(w)); err != nil {
		return fmt.Errorf("%.80q is no JSON array of strings", text)
	}
	return nil
}

// supervised tells whether a build file asks for a workload of guestinit's, and
// refuses one that asks for an init, too.
func supervised(f *buildfile.File) (bool, error) {
	switch asked := !reflect.ValueOf(f.Workload).IsZero(); {
	case f.FromImage != "" && f.Root.Source != "":
		return false, usageError{errors.New("both a root's source and from_image (--from-image): say one")}
	case asked && f.Init != "":
		return false, usageError{fmt.Errorf("both an init, %s, to hand over to, and a workload that guestinit is to run: say one", f.Init)}
	default:
		return asked || f.FromImage != "" && f.Init == "", nil
	}
}

// fillWorkload puts the root's image and the workload into a plan.
func fillWorkload(cmd *cobra.Command, f *buildfile.File, plan *owner.Plan) (err error) {
	if f.FromImage != "" {
		if plan.Root.Source, err = oci.Reference(cmd.Context(), string(f.FromImage)); err != nil {
			return err
		}
	}
	if asked, err := supervised(f); !asked || err != nil {
		return err
	}
	plan.Workload, err = workloadOf(f)
	return err
}

func workloadOf(f *buildfile.File) (*owner.Workload, error) {
	w := &f.Workload
	o := &owner.Workload{
		Entrypoint: w.Entrypoint, Command: w.Command, Env: w.Env, User: w.User, Dir: w.Dir, CapAdd: w.CapAdd, CapDrop: w.CapDrop, NoNewPrivs: w.NoNewPrivs,
		StopSignal: uint8(f.StopSignal), StopSeconds: uint32(w.StopTime), MaxRestarts: uint32(w.MaxRestart), WindowSecs: uint32(w.Window), Hostname: w.Hostname,
		Restart:   map[string]sealed.RestartPolicy{"on-failure": sealed.RestartOnFailure, "always": sealed.RestartAlways}[w.Restart],
		NoNetwork: w.Network.Mode == "none",
	}
	switch {
	case o.Restart == sealed.RestartNever && (w.Restart != "" && w.Restart != "never"):
		return nil, usageError{fmt.Errorf("--restart %s is none of never, on-failure, always", w.Restart)}
	case o.MaxRestarts == 0 && o.WindowSecs != 0:
		return nil, usageError{errors.New("restart_window (--restart-window) wants max_restarts (--max-restarts)")}
	case o.MaxRestarts != 0 && o.Restart == sealed.RestartNever:
		return nil, usageError{errors.New("max_restarts (--max-restarts) wants restart: on-failure or always")}
	}
	var err error
	o.Network, err = networkOf(&w.Network)
	return o, err
}

func networkOf(n *buildfile.Network) (*sealed.Network, error) {
	given := n.Addresses != nil || n.Gateways != nil || n.DNS != nil || n.Search != nil || n.MTU != 0
	source, known := map[string]sealed.Source{"": sealed.DHCP, "dhcp": sealed.DHCP, "host": sealed.Host, "static": sealed.Static, "none": sealed.Static}[n.Mode]
	switch {
	case !known:
		return nil, usageError{fmt.Errorf("--network %s is none of dhcp, static, host, none", n.Mode)}
	case n.Mode == "none" && given:
		return nil, usageError{errors.New("no network, but addresses or the like for it: say one")}
	case n.Mode == "none" || n.Mode == "" && !given:
		return nil, nil
	}
	if n.Mode == "" && n.Addresses != nil {
		source = sealed.Static
	}
	s := &sealed.Network{Source: source, MTU: uint16(n.MTU), Search: n.Search}
	for _, text := range n.Addresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, usageError{fmt.Errorf("address %.80q is none with prefix length, such as 192.0.2.7/24", text)}
		}
		s.Addresses = append(s.Addresses, p)
	}
	for _, list := range []struct {
		texts []string
		to    *[]netip.Addr
		what  string
	}{{n.Gateways, &s.Gateways, "gateway"}, {n.DNS, &s.NameServers, "name server"}} {
		for _, text := range list.texts {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return nil, usageError{fmt.Errorf("%s %.80q is no address", list.what, text)}
			}
			*list.to = append(*list.to, a)
		}
	}
	return s, nil
}

// showWorkload puts what was resolved into a build file that says all of it.
func showWorkload(f *buildfile.File, plan *owner.Plan, res *owner.Result) {
	s := res.Workload
	if s == nil {
		f.Init, f.StopSignal, f.Workload = res.Init, int(plan.StopSignal), buildfile.Workload{}
		return
	}
	w := &f.Workload
	f.Init, f.StopSignal = "", int(s.StopSignal)
	w.Entrypoint, w.Command, w.Env, w.User, w.Dir = s.Args, nil, s.Env, plan.Workload.User, s.Dir
	if w.User == "" {
		w.User = "root"
	}
	w.StopTime, w.MaxRestart, w.Window, w.Hostname = int(s.StopSeconds), int(s.MaxRestarts), int(s.WindowSecs), s.Hostname
	w.Restart = []string{"never", "on-failure", "always"}[s.Restart]
	w.Network.Mode = "none"
	if s.Network != nil {
		w.Network.Mode = []string{"static", "dhcp", "host"}[s.Network.Source]
	}
}
