package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/hostagent/client"
	"github.com/secexec/secexec/hostagent/journal"
	"github.com/secexec/secexec/hostagent/metrics"
	"github.com/secexec/secexec/kubernetes"
	"github.com/secexec/secexec/kubernetes/agent"
	"github.com/secexec/secexec/kubernetes/deviceplugin"
)

// kubernetesFlags are what the node agent is told.
type kubernetesFlags struct {
	node, plugins         string
	server, ca, tokenFile string
	places                agent.Places
	every                 time.Duration
	metrics               string
	metricsRemote         bool
}

func newNodeKubernetes() *cobra.Command {
	var hostagent agentFlags
	var flags kubernetesFlags
	cmd := &cobra.Command{
		Use:   "kubernetes",
		Short: "Tell Kubernetes what guests this node can start, as its DaemonSet does",
		Long: `Kubernetes keeps true what a cluster knows of this node: labels of its Node for
its platform and each of its host keys, places for guests as the extended resource
` + kubernetes.ResourceGuest + `, and the condition ` + kubernetes.ConditionVerified + ` of its pods,
by which they become ready when their guest's signed report verifies.

It runs until it is told to end, as a pod of a DaemonSet (packaging/kubernetes) or
a service of the node. Labels stay when it ends; places go away until it runs
again. A label that says what is not true any more is taken away; those for host
keys are left alone where the node's kernel does not tell its keys.`,
		Example: "  secexec node kubernetes --node-name z1\n  secexec node kubernetes --slots 20 --server https://10.0.0.1:6443 --certificate-authority ca.crt --token-file token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := flags.agent(&hostagent)
			if err != nil {
				return err
			}
			stop, err := flags.serveMetrics(cmd.Context(), a)
			if err != nil {
				return err
			}
			defer stop()
			a.Log.Info("node agent runs", "node", a.Node, "server", a.Server.URL, "hostagent", hostagent.socket, "version", buildVersion())
			a.Run(cmd.Context())
			a.Log.Info("node agent ends; the node's labels stay", "node", a.Node)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.node, "node-name", os.Getenv("NODE_NAME"), "`NAME` of this node's Node object (default: $NODE_NAME, then the host's name)")
	f.StringVar(&flags.server, "server", "", "`URL` of the API server (default: the cluster's of this pod)")
	f.StringVar(&flags.ca, "certificate-authority", "", "`FILE` with the certificates that the API server's leads to (default: the pod's; with --server the system's)")
	f.StringVar(&flags.tokenFile, "token-file", "", "`FILE` with the token to log in with, read for each request (default: the pod's; with --server none)")
	f.IntVar(&flags.places.Count, "slots", 0, "offer `N` places for guests (default: the node's memory divided by --slot-memory)")
	f.IntVar(&flags.places.MemoryMiB, "slot-memory", agent.DefaultPlaceMemory, "memory that a place stands for, `MIB`")
	f.StringVar(&flags.plugins, "device-plugins", deviceplugin.Dir, "kubelet's `FOLDER` of device plugins")
	f.DurationVar(&flags.every, "interval", agent.DefaultEvery, "how often the node is looked at; guests that change are seen at once")
	f.StringVar(&flags.metrics, "metrics", "", "`ADDRESS` where Prometheus scrapes: unix:/PATH or IP:PORT (default: nowhere)")
	f.BoolVar(&flags.metricsRemote, "metrics-remote", false, "let --metrics be reached from elsewhere; nobody is asked who they are")
	hostagent.add(cmd)
	return cmd
}

// serveMetrics shows the agent's metrics; the function it returns ends that.
func (f *kubernetesFlags) serveMetrics(ctx context.Context, a *agent.Agent) (stop func(), err error) {
	network, address, err := metrics.Address(f.metrics, f.metricsRemote)
	if err != nil {
		return nil, usageError{err}
	}
	if network == "" {
		return func() {}, nil
	}
	l, err := metrics.Listen(network, address, -1)
	if err != nil {
		return nil, err
	}
	registry := new(metrics.Registry)
	a.Measure(registry)
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan struct{})
	go func() {
		defer close(served)
		registry.Serve(ctx, l)
	}()
	return func() {
		cancel()
		<-served
	}, nil
}

// agent makes the agent of what was typed and what a pod finds.
func (f *kubernetesFlags) agent(hostagent *agentFlags) (*agent.Agent, error) {
	switch {
	case f.places.Count < 0 || f.places.MemoryMiB < 1:
		return nil, usageError{fmt.Errorf("--slots %d with --slot-memory %d: wants 0 or more, and 1 or more", f.places.Count, f.places.MemoryMiB)}
	case f.every < time.Second:
		return nil, usageError{fmt.Errorf("--interval %s is less than a second", f.every)}
	case f.server == "" && (f.ca != "" || f.tokenFile != ""):
		return nil, usageError{fmt.Errorf("--certificate-authority and --token-file go with --server")}
	}
	server := &agent.Server{URL: f.server, CAFile: f.ca, TokenFile: f.tokenFile}
	if f.server == "" {
		var err error
		if server, err = agent.InCluster(); err != nil {
			return nil, err
		}
	}
	if err := server.Check(); err != nil {
		return nil, usageError{err}
	}
	host, err := os.Hostname()
	if err != nil && f.node == "" {
		return nil, fmt.Errorf("find this node's name: %w: name it by --node-name", err)
	}
	log := slog.New(journal.New(os.Stderr, slog.LevelInfo))
	return &agent.Agent{
		Node: cmp.Or(f.node, strings.ToLower(host)), Server: server, Log: log, Places: f.places, Every: f.every,
		Dial:   func(ctx context.Context) (*client.Client, error) { return dial(ctx, hostagent.socket, hostagent.tls) },
		Plugin: deviceplugin.New(f.plugins, "secexec.sock", kubernetes.ResourceGuest, log),
	}, nil
}
