package ext4

import "fmt"

// Used tells which blocks of a file system hold something: all but those that
// its block bitmaps mark free. Tables count as used whether or not they were
// written yet.
type Used struct {
	blockSize int64
	blocks    int64
	bits      []uint64
}

// Range tells whether any byte of a range of the image is in use. What lies
// behind the file system is.
func (u *Used) Range(at, n int64) bool {
	for b := at / u.blockSize; b*u.blockSize < at+n; b++ {
		if b >= u.blocks || u.bits[b/64]>>(b%64)&1 != 0 {
			return true
		}
	}
	return false
}

func (u *Used) mark(block, n int64) {
	for b := max(0, block); b < min(block+n, u.blocks); b++ {
		u.bits[b/64] |= 1 << (b % 64)
	}
}

// Used reads the block bitmaps.
func (f *FS) Used() (*Used, error) {
	u := &Used{blockSize: f.blockSize, blocks: f.blocks, bits: make([]uint64, (f.blocks+63)/64)}
	u.mark(0, f.first+1)
	tableBlocks := (int64(f.inodesPer)*f.inodeSize + f.blockSize - 1) / f.blockSize
	bitmap := make([]byte, f.blockSize)
	for i := range f.groups {
		g := &f.groups[i]
		start := f.first + int64(i)*f.perGroup
		u.mark(g.blockBitmap, 1)
		u.mark(g.inodeBitmap, 1)
		u.mark(g.inodeTable, tableBlocks)
		if f.hasSuper(int64(i)) {
			u.mark(start, 1+f.descBlocks()+f.reserved)
		}
		if g.flags&groupBlockUninit != 0 {
			continue // its bitmap was never written: tables are all there is
		}
		if err := readFull(f.r, bitmap, g.blockBitmap*f.blockSize); err != nil {
			return nil, err
		}
		bits := bitmap[:f.perGroup/8]
		want := sum(f.seed, bits)
		if f.descSize == 32 {
			want &= 0xffff
		}
		if f.summed() && want != g.bitmapSum {
			return nil, fmt.Errorf("%w: block bitmap of group %d: its checksum does not match", ErrFormat, i)
		}
		for b := range min(f.perGroup, f.blocks-start) {
			if bits[b/8]>>(b%8)&1 != 0 {
				u.mark(start+b, 1)
			}
		}
	}
	return u, nil
}

// hasSuper tells whether a group holds a copy of superblock and descriptors.
func (f *FS) hasSuper(g int64) bool {
	switch {
	case g == 0:
		return true
	case f.compat&compatSparseSuper2 != 0:
		return g == int64(f.backups[0]) || g == int64(f.backups[1])
	case f.ro&roSparseSuper == 0 || g == 1:
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		p := base
		for p < g {
			p *= base
		}
		if p == g {
			return true
		}
	}
	return false
}

// Bitmaps returns the blocks of all bitmaps that a kernel reads: those of
// groups without a mark that they were never written. Such a bitmap may be all
// zeros and yet say something.
func (f *FS) Bitmaps() (blocks []int64) {
	for _, g := range f.groups {
		if g.flags&groupBlockUninit == 0 {
			blocks = append(blocks, g.blockBitmap)
		}
		if g.flags&groupInodeUninit == 0 {
			blocks = append(blocks, g.inodeBitmap)
		}
	}
	return blocks
}
