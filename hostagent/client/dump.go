package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// ErrIncomplete says that a dump ended before its end.
var ErrIncomplete = errors.New("the dump ended before it was complete")

// Dump writes a protected dump of a guest to w; progress hears how many bytes
// came, and of how many of guest memory, 0 while that is unknown. Unless it
// returns nil, what was written is no dump; the caller closes the connection then,
// which lets the guest go on.
func (c *Client) Dump(ctx context.Context, name string, w io.Writer, progress func(done, total uint64)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := hostagentv1.NewDumpClient(c.conn).Dump(ctx, &hostagentv1.DumpRequest{Name: name})
	if err != nil {
		return fromStatus(err)
	}
	var done uint64
	for {
		chunk, err := stream.Recv()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return ErrIncomplete
		case err != nil:
			return fromStatus(err)
		case chunk.Complete:
			return nil
		}
		if _, err := w.Write(chunk.Data); err != nil {
			return fmt.Errorf("write dump: %w", err)
		}
		done += uint64(len(chunk.Data))
		progress(done, chunk.Total)
	}
}
