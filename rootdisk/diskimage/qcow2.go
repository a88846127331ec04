package diskimage

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	qcowMagic = "QFI\xfb"
	maxL1     = 32 << 20 // bytes: QEMU's own bound
	maxDisk   = 1 << 46
)

// qcow2 reads an image of QEMU's (docs/interop/qcow2.txt), version 2 or 3,
// without a backing file. All its numbers are big-endian.
type qcow2 struct {
	f        *os.File
	size     int64 // of the disk
	stored   int64 // of the file
	bits     uint  // of a cluster
	l1       []byte
	zstd     bool
	mu       sync.Mutex // guards what follows
	table    []byte     // the last table that was read, and where
	at       uint64
	cluster  []byte // the last compressed cluster, and its entry
	entry    uint64
	expanded bool
}

func openQcow2(f *os.File, stored int64) (*qcow2, error) {
	be := binary.BigEndian
	h := make([]byte, 112)
	if n, err := f.ReadAt(h, 0); n < 72 {
		return nil, fmt.Errorf("%w: qcow2 header: %w", ErrImage, err)
	}
	version, bits := be.Uint32(h[4:]), be.Uint32(h[20:])
	q := &qcow2{f: f, stored: stored, size: int64(be.Uint64(h[24:])), bits: uint(bits)}
	refuse := func(what string) (*qcow2, error) {
		return nil, fmt.Errorf("%w: qcow2 image %s: qemu-img convert -O raw gives one that is taken", ErrImage, what)
	}
	switch {
	case version != 2 && version != 3:
		return refuse(fmt.Sprintf("of version %d", version))
	case be.Uint64(h[8:]) != 0:
		return refuse("with a backing file, which is not read because it may name any file of this machine")
	case be.Uint32(h[32:]) != 0:
		return refuse("that is encrypted")
	case bits < 9 || bits > 21:
		return refuse(fmt.Sprintf("with clusters of 2^%d bytes", bits))
	case q.size <= 0 || q.size > maxDisk:
		return refuse(fmt.Sprintf("of %d bytes", uint64(q.size)))
	}
	if version == 3 {
		features, length := be.Uint64(h[72:]), be.Uint32(h[100:])
		switch {
		case features&2 != 0:
			return refuse("that is marked corrupt")
		case features&4 != 0:
			return refuse("with an external data file")
		case features&16 != 0:
			return refuse("with subclusters")
		case features&^(1|8) != 0: // dirty reference counts don't matter to a reader
			return refuse("with a feature that is not known")
		case length < 104 || length > 1<<q.bits:
			return refuse("with a broken header")
		}
		if features&8 != 0 {
			if length < 112 || h[104] != 1 {
				return refuse("with an unknown compression")
			}
			q.zstd = true
		}
	}
	// An L1 entry covers a table of 8-byte entries, a cluster each.
	covered := int64(1) << (2*q.bits - 3)
	need := (q.size + covered - 1) / covered * 8
	if have := int64(be.Uint32(h[36:])) * 8; need > have || have > maxL1 {
		return refuse("whose L1 table does not fit its size")
	}
	q.l1 = make([]byte, need)
	if n, err := f.ReadAt(q.l1, int64(be.Uint64(h[40:])&(1<<63-1))); n < len(q.l1) {
		return nil, fmt.Errorf("%w: qcow2 L1 table: %w", ErrImage, errors.Join(err, io.ErrUnexpectedEOF))
	}
	return q, nil
}

const (
	offsetMask = 0x00fffffffffffe00
	compressed = 1 << 62
	zeroFlag   = 1
)

// ReadAt implements io.ReaderAt.
func (q *qcow2) ReadAt(b []byte, at int64) (done int, err error) {
	for done < len(b) {
		if at >= q.size {
			return done, io.EOF
		}
		in := at & (1<<q.bits - 1)
		n := min(int64(len(b)-done), 1<<q.bits-in, q.size-at)
		if err := q.readCluster(b[done:done+int(n)], at>>q.bits, in); err != nil {
			return done, err
		}
		done, at = done+int(n), at+n
	}
	return done, nil
}

func (q *qcow2) readCluster(b []byte, cluster, in int64) error {
	be := binary.BigEndian
	q.mu.Lock()
	defer q.mu.Unlock()
	perTable := int64(1) << (q.bits - 3)
	l2 := be.Uint64(q.l1[cluster/perTable*8:]) & offsetMask
	if l2 == 0 {
		clear(b)
		return nil
	}
	if q.table == nil || q.at != l2 {
		table := make([]byte, 1<<q.bits)
		if n, err := q.f.ReadAt(table, int64(l2)); n < len(table) || l2&(1<<q.bits-1) != 0 {
			return fmt.Errorf("%w: qcow2 L2 table at %d: %w", ErrImage, l2, errors.Join(err, io.ErrUnexpectedEOF))
		}
		q.table, q.at = table, l2
	}
	e := be.Uint64(q.table[cluster%perTable*8:])
	switch {
	case e&compressed != 0:
		return q.expand(b, e, in)
	case e&zeroFlag != 0 || e&offsetMask == 0:
		clear(b)
		return nil
	case e&offsetMask&(1<<q.bits-1) != 0:
		return fmt.Errorf("%w: qcow2 cluster at %d", ErrImage, e&offsetMask)
	}
	n, err := q.f.ReadAt(b, int64(e&offsetMask)+in)
	if n < len(b) && errors.Is(err, io.EOF) && int64(e&offsetMask) < q.stored {
		clear(b[n:]) // the file may end in its last cluster
		err = nil
	}
	if err != nil && n < len(b) {
		return fmt.Errorf("%w: qcow2 cluster at %d: %w", ErrImage, e&offsetMask, err)
	}
	return nil
}

// expand reads from a compressed cluster.
func (q *qcow2) expand(b []byte, e uint64, in int64) error {
	if !q.expanded || q.entry != e {
		shift := 62 - (q.bits - 8)
		at := int64(e & (1<<shift - 1))
		sectors := int64(e >> shift & (1<<(q.bits-8) - 1))
		packed := io.NewSectionReader(q.f, at, (sectors+1)*512-at%512)
		if q.cluster == nil {
			q.cluster = make([]byte, 1<<q.bits)
		}
		q.expanded = false
		var r io.Reader
		if q.zstd {
			raw, err := io.ReadAll(packed)
			if err != nil {
				return fmt.Errorf("%w: qcow2 cluster at %d: %w", ErrImage, at, err)
			}
			z, err := zstd.NewReader(bytes.NewReader(raw), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
			if err != nil {
				return fmt.Errorf("%w: qcow2 cluster at %d: %w", ErrImage, at, err)
			}
			defer z.Close()
			r = z
		} else {
			r = flate.NewReader(packed)
		}
		if _, err := io.ReadFull(r, q.cluster); err != nil {
			return fmt.Errorf("%w: qcow2 cluster at %d: %w", ErrImage, at, err)
		}
		q.entry, q.expanded = e, true
	}
	copy(b, q.cluster[in:])
	return nil
}
