package main

import (
	"context"
	"log/slog"
	"net"

	"github.com/secexec/secexec/hostagent/api"
	"github.com/secexec/secexec/hostagent/guest"
	"github.com/secexec/secexec/hostagent/metrics"
	"github.com/secexec/secexec/hostagent/platform"
	"github.com/secexec/secexec/hostagent/settings"
)

// newService is the API over a fleet, as the settings have it.
func newService(c *settings.Settings, fleet *guest.Fleet, p platform.Platform, r *report, set *metrics.Set, log *slog.Logger) (*api.Service, error) {
	quotas, err := tenantQuotas(c)
	if err != nil {
		return nil, err
	}
	return &api.Service{
		Fleet: fleet, Node: nodeFacts(p, c.QEMU, r), Examine: r.fresh,
		Roots:  api.Roots{Admins: c.BundleRoots, Tenants: c.TenantRoots, Disks: c.DiskRoots},
		Quotas: api.Quotas{Default: c.Quota(), Users: quotas},
		Calls:  &api.Calls{Log: log, Count: set.Call, Stream: set.Stream},
	}, nil
}

// serve lets callers in: those of this node, and with listen those of other
// machines, until the context ends or one of both fails, which the channel tells.
// stop ends the server.
func serve(ctx context.Context, c *settings.Settings, service *api.Service, local net.Listener, admission api.Admission, log *slog.Logger) (served <-chan error, stop func() error, err error) {
	server, err := api.NewServer(service)
	if err != nil {
		return nil, nil, err
	}
	remote, err := listenTLS(c, admission, log)
	if err != nil {
		return nil, nil, err
	}
	gate := api.NewGate(server, log)
	ended := make(chan error, 2)
	go func() { ended <- gate.Serve(ctx, local, admission.Unix) }()
	if remote != nil {
		go func() { ended <- gate.Serve(ctx, remote.Listener, remote.Admit) }()
		log.Info("hostagent serves clients with a certificate", "address", remote.Listener.Addr())
	}
	return ended, server.Close, nil
}
