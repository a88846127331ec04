package rootdisk

import (
	"bytes"
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
// iv_large_sectors the IV counts 512-byte sectors). What is in use is written,
// zeros too; the rest stays a hole, which decrypts to noise.
func encrypt(ctx context.Context, out io.WriterAt, offset int64, plain io.ReaderAt, size int64, key secret.Bytes, used func(at, n int64) bool) error {
	c, err := xts.New(key)
	if err != nil {
		return fmt.Errorf("encrypt root disk: %w", err)
	}
	defer c.Wipe()
	err = eachChunk(ctx, size, func(b []byte, at int64) error { return encryptChunk(c, out, offset, plain, at, b, used) })
	if err != nil {
		return fmt.Errorf("encrypt root disk: %w", err)
	}
	return nil
}

// eachChunk gives all chunks of size bytes to as many workers as there are
// processors; b is a buffer as long as the chunk.
func eachChunk(ctx context.Context, size int64, work func(b []byte, at int64) error) error {
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
					errs[i] = work(buf[:min(chunkSize, size-at)], at)
				}
				if errs[i] != nil {
					next.Store(size) // the others stop too
				}
			}
		})
	}
	workers.Wait()
	return errors.Join(errs...)
}

func encryptChunk(c *xts.Cipher, out io.WriterAt, offset int64, plain io.ReaderAt, at int64, b []byte, used func(at, n int64) bool) error {
	for i := 0; i < len(b); {
		to := i
		for to < len(b) && used(at+int64(to), cryptSector) {
			to += cryptSector
		}
		if to == i {
			i += cryptSector
			continue
		}
		run, start := b[i:to], at+int64(i)
		if n, err := plain.ReadAt(run, start); n < len(run) {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
		for s := 0; s < len(run); s += cryptSector {
			sector := run[s : s+cryptSector]
			c.Encrypt(sector, sector, xts.SectorTweak(uint64(start+int64(s))/ivSector))
		}
		if _, err := out.WriteAt(run, offset+start); err != nil {
			return err
		}
		i = to
	}
	return nil
}

// isZero tells whether bytes are all zero.
func isZero(b []byte) bool {
	for ; len(b) > len(zeros); b = b[len(zeros):] {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
	}
	return bytes.Equal(b, zeros[:len(b)])
}
