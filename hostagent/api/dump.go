package api

import (
	"context"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// dumpService implements hostagentv1.DumpService beside a Service.
type dumpService struct{ *Service }

var _ hostagentv1.DumpService = dumpService{}

// Dump implements the service.
func (s dumpService) Dump(ctx context.Context, r *hostagentv1.DumpRequest, stream hostagentv1.Dump_DumpServer) error {
	g, err := s.find(ctx, r.Name)
	if err != nil {
		return toStatus(err)
	}
	err = g.Dump(ctx, func(piece []byte, total uint64) error {
		return stream.Send(&hostagentv1.DumpChunk{Data: piece, Total: total})
	})
	if err != nil {
		return toStatus(err)
	}
	return stream.Send(&hostagentv1.DumpChunk{Complete: true})
}
