package buildfile

// Workload is the one program of a root without an init, which guestinit runs.
// What it leaves out is as the root's container image says.
type Workload struct {
	Entrypoint []string `yaml:"entrypoint,omitempty" one:"true" doc:"Program and first arguments, in place of the image's entry point and command."`
	Command    []string `yaml:"command,omitempty" one:"true" doc:"Arguments after the entry point, in place of the image's; without an entry point the program first."`
	Env        []string `yaml:"env,omitempty" doc:"Variables, NAME=VALUE each, over the image's."`
	User       string   `yaml:"user,omitempty" doc:"User and group, USER[:GROUP], names of the root's /etc/passwd and /etc/group or numbers; default: the image's, or root."`
	Dir        string   `yaml:"working_dir,omitempty" doc:"Working directory; default: the image's, or /."`
	CapAdd     []string `yaml:"cap_add,omitempty" doc:"Capabilities beside podman's default ones, or ALL."`
	CapDrop    []string `yaml:"cap_drop,omitempty" doc:"Capabilities that are taken away, or ALL."`
	NoNewPrivs bool     `yaml:"no_new_privileges,omitempty" doc:"Let set-user-ID programs and file capabilities give no rights; default: false."`
	StopTime   int      `yaml:"stop_timeout,omitempty" doc:"Seconds from the stop signal to a kill; default: 10." min:"1" max:"3600"`
	Restart    string   `yaml:"restart,omitempty" enum:"never on-failure always" doc:"Whether a program that ended is run again; default: never, the guest powers off."`
	MaxRestart int      `yaml:"max_restarts,omitempty" doc:"Restarts within restart_window, then the guest powers off; default: no limit." min:"1" max:"1000000"`
	Window     int      `yaml:"restart_window,omitempty" doc:"Seconds; default: 600." min:"1" max:"1000000"`
	Hostname   string   `yaml:"hostname,omitempty" doc:"The guest's host name; default: the workload's name."`
	Network    Network  `yaml:"network,omitempty" doc:"Configuration of the guest's one network interface."`
}

// Network is how the guest's network interface is configured.
type Network struct {
	Mode      string   `yaml:"mode,omitempty" enum:"dhcp static host none" doc:"dhcp: an IPv4 address and name servers are asked for; host: whoever runs the guest describes its network, as Kubernetes does; default: dhcp, or static with addresses."`
	Addresses []string `yaml:"addresses,omitempty" one:"true" doc:"Static addresses with prefix length, such as 192.0.2.7/24."`
	Gateways  []string `yaml:"gateways,omitempty" one:"true" doc:"Default routers, at most one of each family."`
	DNS       []string `yaml:"dns,omitempty" one:"true" doc:"Name servers, at most 3; they go before the network's own."`
	Search    []string `yaml:"search,omitempty" one:"true" doc:"Search domains, at most 6."`
	MTU       int      `yaml:"mtu,omitempty" doc:"Largest packet; default: the device's." min:"576" max:"65535"`
}
