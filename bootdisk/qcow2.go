package bootdisk

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

// Layout of a qcow2 image, version 3, as written here (QEMU: docs/interop/
// qcow2.txt), big-endian, in clusters of 64 KiB: header, refcount table,
// refcount blocks, L1 table, L2 tables, data. No compression, no snapshots, no
// backing file; a cluster of zeros is not there.
const (
	qcowMagic      = 0x514649fb // "QFI\xfb"
	qcowBits       = 16
	qcowCluster    = 1 << qcowBits
	qcowHeaderSize = 104
	qcowPerTable   = qcowCluster / 8 // entries of an L2 table, or of the refcount table in a cluster
	qcowPerRefs    = qcowCluster / 2 // clusters that a refcount block counts, 16 bits each
	qcowCopied     = 1 << 63         // the cluster has one user
)

// qcow2 is where the parts of an image lie, in clusters.
type qcow2 struct {
	size   int64   // bytes of the disk
	data   []int64 // clusters of the disk that are not all zeros, in order
	tables []int64 // L2 tables that there are, in order

	refTable, refBlocks, l1, l2, first, end int64
}

// ToQCOW2 writes a raw disk image as qcow2 to an empty file.
func ToQCOW2(ctx context.Context, out *os.File, raw io.ReaderAt, size int64) error {
	q, err := planQCOW2(ctx, raw, size)
	if err != nil {
		return fmt.Errorf("convert to qcow2: %w", err)
	}
	if _, err := out.WriteAt(q.meta(), 0); err != nil {
		return fmt.Errorf("convert to qcow2: %w", err)
	}
	buf := make([]byte, qcowCluster)
	for i, c := range q.data {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := raw.ReadAt(buf[:min(qcowCluster, size-c<<qcowBits)], c<<qcowBits)
		if err == nil || n == len(buf) {
			clear(buf[n:])
			_, err = out.WriteAt(buf, (q.first+int64(i))<<qcowBits)
		}
		if err != nil {
			return fmt.Errorf("convert to qcow2: %w", err)
		}
	}
	return nil
}

// planQCOW2 looks for the clusters that are not all zeros and places all parts.
func planQCOW2(ctx context.Context, raw io.ReaderAt, size int64) (*qcow2, error) {
	q := &qcow2{size: size}
	buf, zeros := make([]byte, qcowCluster), make([]byte, qcowCluster)
	for c := int64(0); c<<qcowBits < size; c++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := buf[:min(qcowCluster, size-c<<qcowBits)]
		if n, err := raw.ReadAt(part, c<<qcowBits); n < len(part) {
			return nil, err
		}
		if bytes.Equal(part, zeros[:len(part)]) {
			continue
		}
		q.data = append(q.data, c)
		if t := c / qcowPerTable; len(q.tables) == 0 || q.tables[len(q.tables)-1] != t {
			q.tables = append(q.tables, t)
		}
	}
	clusters := func(n, per int64) int64 { return max(1, (n+per-1)/per) }
	l1 := clusters(clusters(size, qcowCluster*qcowPerTable), qcowPerTable)
	rest := l1 + int64(len(q.tables)+len(q.data))
	// The refcounts count themselves.
	refs, table := int64(1), int64(1)
	for 1+table+refs+rest > refs*qcowPerRefs || refs > table*qcowPerTable {
		refs = clusters(1+table+refs+rest, qcowPerRefs)
		table = clusters(refs, qcowPerTable)
	}
	q.refTable = 1
	q.refBlocks = q.refTable + table
	q.l1 = q.refBlocks + refs
	q.l2 = q.l1 + l1
	q.first = q.l2 + int64(len(q.tables))
	q.end = q.first + int64(len(q.data))
	return q, nil
}

// meta returns all clusters before the data.
func (q *qcow2) meta() []byte {
	be := binary.BigEndian
	out := make([]byte, q.first<<qcowBits)
	be.PutUint32(out[0:], qcowMagic)
	be.PutUint32(out[4:], 3)
	be.PutUint32(out[20:], qcowBits)
	be.PutUint64(out[24:], uint64(q.size))
	be.PutUint32(out[36:], uint32((q.size+qcowCluster*qcowPerTable-1)/(qcowCluster*qcowPerTable)))
	be.PutUint64(out[40:], uint64(q.l1<<qcowBits))
	be.PutUint64(out[48:], uint64(q.refTable<<qcowBits))
	be.PutUint32(out[56:], uint32(q.refBlocks-q.refTable))
	be.PutUint32(out[96:], 4) // refcounts of 1 << 4 bits
	be.PutUint32(out[100:], qcowHeaderSize)

	for i := range q.l1 - q.refBlocks {
		be.PutUint64(out[q.refTable<<qcowBits+8*i:], uint64((q.refBlocks+i)<<qcowBits))
	}
	for c := range q.end {
		be.PutUint16(out[q.refBlocks<<qcowBits+2*c:], 1)
	}
	for i, t := range q.tables {
		be.PutUint64(out[q.l1<<qcowBits+8*t:], uint64((q.l2+int64(i))<<qcowBits)|qcowCopied)
	}
	table := 0
	for i, c := range q.data {
		if q.tables[table] != c/qcowPerTable {
			table++
		}
		at := (q.l2+int64(table))<<qcowBits + 8*(c%qcowPerTable)
		be.PutUint64(out[at:], uint64((q.first+int64(i))<<qcowBits)|qcowCopied)
	}
	return out
}
