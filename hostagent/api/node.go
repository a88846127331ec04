package api

import (
	"context"

	"github.com/secexec/secexec/hostagent/node"
	"github.com/secexec/secexec/proto/hostagent/v1"
)

// nodeService implements hostagentv1.NodeService.
type nodeService struct {
	examine func(ctx context.Context) []node.Finding
}

var _ hostagentv1.NodeService = nodeService{}

// Check implements the service.
func (s nodeService) Check(ctx context.Context, _ *hostagentv1.NodeCheckRequest) (*hostagentv1.NodeCheckResponse, error) {
	out := &hostagentv1.NodeCheckResponse{}
	for _, f := range s.examine(ctx) {
		out.Findings = append(out.Findings, &hostagentv1.NodeFinding{Check: f.Check, Result: string(f.Result), Says: f.Says, Remedy: f.Remedy})
	}
	return out, nil
}
