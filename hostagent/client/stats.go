package client

import (
	"context"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// Usage returns what guests take from their node, without names of all.
func (c *Client) Usage(ctx context.Context, names ...string) (*hostagentv1.UsageResponse, error) {
	return call(ctx, callTimeout, hostagentv1.NewStatsClient(c.conn).Usage, &hostagentv1.UsageRequest{Names: names})
}
