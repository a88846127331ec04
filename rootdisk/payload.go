package rootdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/xts"
)

const (
	cryptSector = 4096      // dm-crypt's unit of encryption in bytes
	ivSector    = 512       // what its plain64 IV counts, whatever the unit
	chunkSize   = 256 << 10 // bytes that one worker has at a time
	mebi        = 1 << 20
)

// encrypt writes the plain text to out at an offset as dm-crypt with
// aes-xts-plain64 and sector_size:4096 would (Linux, dm-crypt.rst: without
// iv_large_sectors the IV counts 512-byte sectors). All of it is written, zeros
// too: a sparse disk would show which blocks are in use.
func encrypt(ctx context.Context, out io.WriterAt, offset int64, plain io.ReaderAt, size int64, key secret.Bytes) error {
	c, err := xts.New(key)
	if err != nil {
		return fmt.Errorf("encrypt root disk: %w", err)
	}
	defer c.Wipe()
	var next atomic.Int64
	errs := make([]error, runtime.GOMAXPROCS(0))
	var workers sync.WaitGroup
	for i := range errs {
		workers.Go(func() {
			buf := make([]byte, chunkSize)
			for {
				at := next.Add(chunkSize) - chunkSize
				if at >= size || errs[i] != nil {
					return
				}
				if errs[i] = ctx.Err(); errs[i] == nil {
					errs[i] = encryptChunk(c, out, offset, plain, at, buf[:min(chunkSize, size-at)])
				}
				if errs[i] != nil {
					next.Store(size) // the others stop too
				}
			}
		})
	}
	workers.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("encrypt root disk: %w", err)
	}
	return nil
}

func encryptChunk(c *xts.Cipher, out io.WriterAt, offset int64, plain io.ReaderAt, at int64, b []byte) error {
	if n, err := plain.ReadAt(b, at); n < len(b) {
		return errors.Join(err, io.ErrUnexpectedEOF)
	}
	for i := 0; i < len(b); i += cryptSector {
		sector := b[i : i+cryptSector]
		c.Encrypt(sector, sector, xts.SectorTweak(uint64(at+int64(i))/ivSector))
	}
	_, err := out.WriteAt(b, offset+at)
	return err
}
