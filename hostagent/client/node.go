package client

import (
	"context"

	"github.com/secexec/secexec/hostagent/node"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// NodeCheck lets hostagent examine its machine.
func (c *Client) NodeCheck(ctx context.Context) ([]node.Finding, error) {
	answer, err := call(ctx, callTimeout, hostagentv1.NewNodeClient(c.conn).Check, &hostagentv1.NodeCheckRequest{})
	if err != nil {
		return nil, err
	}
	var findings []node.Finding
	for _, f := range answer.Findings {
		findings = append(findings, node.Finding{Check: f.Check, Result: node.Result(f.Result), Says: f.Says, Remedy: f.Remedy})
	}
	return findings, nil
}
