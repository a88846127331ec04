package rootdisk

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/secexec/secexec/outfile"
	"github.com/secexec/secexec/rootdisk/luks2"
	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/xts"
)

// Open decrypts a disk's payload to a new file at path, which appears complete
// or not at all and has holes where the payload has zeros. passphrase opens a
// key slot; or key is the volume key itself. Either is checked against the
// header's digest. It returns the size of what is in the payload in bytes. A
// changed sector of a disk with integrity is ErrChanged.
func Open(ctx context.Context, disk *os.File, path string, passphrase, key secret.Bytes) (int64, error) {
	h, err := luks2.Parse(disk)
	if err != nil {
		return 0, err
	}
	info, err := disk.Stat()
	if err != nil {
		return 0, err
	}
	size := h.Payload
	if size == 0 {
		size = (info.Size() - h.Offset) / int64(h.Sector) * int64(h.Sector)
	}
	if size <= 0 || size > info.Size()-h.Offset || size%int64(h.Sector) != 0 {
		return 0, fmt.Errorf("%w: %d bytes at %d in a disk of %d: it is cut off", luks2.ErrHeader, h.Payload, h.Offset, info.Size())
	}
	if key != nil {
		err = h.CheckKey(key)
	} else if key, err = h.Unlock(disk, passphrase); err == nil {
		defer key.Wipe()
	}
	if err != nil {
		return 0, err
	}
	var read func(b []byte, at int64) error
	if h.Integrity != "" {
		size, read, err = taggedPayload(disk, h.Offset, size, key)
	} else {
		read, err = plainPayload(disk, h, key)
	}
	if err != nil {
		return 0, err
	}
	out, err := outfile.Create(path, 0o600, false)
	if err != nil {
		return 0, err
	}
	defer out.Abort()
	if err := out.Truncate(size); err != nil {
		return 0, fmt.Errorf("write %s: %w", path, err)
	}
	err = eachChunk(ctx, size, func(b []byte, at int64) error {
		if err := read(b, at); err != nil {
			return err
		}
		for i := 0; i < len(b); {
			to, hole := i, isZero(b[i:min(i+cryptSector, len(b))])
			for to < len(b) && isZero(b[to:min(to+cryptSector, len(b))]) == hole {
				to = min(to+cryptSector, len(b))
			}
			if !hole {
				if _, err := out.WriteAt(b[i:to], at+int64(i)); err != nil {
					return err
				}
			}
			i = to
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("open disk: %w", err)
	}
	return size, out.Commit()
}

// plainPayload returns what reads and decrypts a chunk of a payload without tags.
func plainPayload(disk io.ReaderAt, h *luks2.Header, key secret.Bytes) (func(b []byte, at int64) error, error) {
	c, err := xts.New(key)
	if err != nil {
		return nil, err
	}
	return func(b []byte, at int64) error {
		if n, err := disk.ReadAt(b, h.Offset+at); n < len(b) {
			return err
		}
		for i := 0; i < len(b); i += h.Sector {
			sector := b[i : i+h.Sector]
			c.Decrypt(sector, sector, xts.SectorTweak(uint64(at+int64(i))/ivSector))
		}
		return nil
	}, nil
}
