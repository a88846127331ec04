package main

import (
	"fmt"
	"log/slog"
	"net"
	"os/user"
	"strconv"
	"strings"

	"github.com/secexec/secexec/hostagent/api"
	"github.com/secexec/secexec/hostagent/settings"
)

// newAdmission looks up the groups that may call.
func newAdmission(c *settings.Settings) (a api.Admission, err error) {
	if a.Admins, err = groupID(c.Group); err == nil {
		a.Tenants, err = groupID(c.TenantsGroup)
	}
	return a, err
}

// groupID is a group's number, -1 for none.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1, fmt.Errorf("look up group: %w", err)
	}
	return strconv.Atoi(g.Gid)
}

// lookUser finds a user by name or number, with its groups. A number need not be
// in the node's list of users, and has no groups then.
func lookUser(name string) (uid uint32, gids []uint32, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		n, e := strconv.ParseUint(name, 10, 32)
		if e != nil {
			return 0, nil, fmt.Errorf("look up user: %w", err)
		}
		if u, err = user.LookupId(name); err != nil {
			return uint32(n), nil, nil
		}
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, nil, fmt.Errorf("look up user %s: %w", name, err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return 0, nil, fmt.Errorf("look up groups of user %s: %w", name, err)
	}
	for _, g := range groups {
		gid, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return 0, nil, fmt.Errorf("look up groups of user %s: %w", name, err)
		}
		gids = append(gids, uint32(gid))
	}
	return uint32(n), gids, nil
}

// tenantQuotas looks up the users that have quotas of their own.
func tenantQuotas(c *settings.Settings) (map[uint32]settings.Quota, error) {
	out := make(map[uint32]settings.Quota)
	for name, quota := range c.TenantQuotas {
		uid, _, err := lookUser(name)
		if err != nil {
			return nil, fmt.Errorf("read tenant_quotas: %w", err)
		}
		if _, twice := out[uid]; twice {
			return nil, fmt.Errorf("read tenant_quotas: user %s is there by name and number", name)
		}
		out[uid] = quota
	}
	return out, nil
}

// remote is where clients with a certificate are served.
type remote struct {
	net.Listener
	*api.TLS
}

// listenTLS listens where the settings say, nil: nowhere.
func listenTLS(c *settings.Settings, a api.Admission, log *slog.Logger) (*remote, error) {
	if c.Listen == "" {
		return nil, nil
	}
	t, err := api.NewTLS(api.TLSFiles{Certificate: c.TLSCertificate, Key: c.TLSKey, ClientCA: c.TLSClientCA}, log)
	if err != nil {
		return nil, err
	}
	for client, name := range c.TLSClients {
		if _, _, err := lookUser(name); err != nil {
			return nil, fmt.Errorf("read tls_clients, %s: %w", client, err)
		}
	}
	t.Client = func(client string) (*api.Caller, error) {
		name, listed := c.TLSClients[client]
		switch {
		case len(c.TLSClients) == 0:
			return &api.Caller{Admin: true}, nil
		case !listed:
			return nil, fmt.Errorf("client %.100q is not among tls_clients", client)
		}
		uid, gids, err := lookUser(name) // now: groups change
		if err != nil {
			return nil, err
		}
		return a.Admit(uid, gids)
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", c.Listen, err)
	}
	return &remote{l, t}, nil
}

// list is a flag with several values.
type list []string

// String implements flag.Value.
func (l *list) String() string { return strings.Join(*l, ",") }

// Set implements flag.Value.
func (l *list) Set(text string) error {
	if *l = nil; text != "" {
		*l = strings.Split(text, ",")
	}
	return nil
}
