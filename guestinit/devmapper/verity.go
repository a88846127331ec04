package devmapper

import "fmt"

// Verity is a dm-verity target, format 1 with SHA-256, whose data and hash tree
// are on one device. It gives nothing but what the root hash vouches for.
//
// A block that fails is an I/O error to who reads it, not a panic
// (panic_on_corruption): whoever could change the disk could as well answer with
// an error or cut the guest's power, so that a panic would take nothing from
// them, and the rest of the workload goes on. check_at_most_once is never set:
// a block that leaves memory is verified again when it is read again.
type Verity struct {
	Major, Minor uint32 // of the device with both
	DataSize     uint64 // bytes, a multiple of BlockSize
	HashOffset   uint64 // bytes from its start to the tree, a multiple of BlockSize
	BlockSize    uint64 // of data and tree, in bytes
	RootHash     [32]byte
	Salt         [32]byte
}

// Table returns dm-verity's parameters (Linux, Documentation/admin-guide/
// device-mapper/verity.rst).
func (v Verity) Table() (kind, params string, sectors uint64, err error) {
	if v.BlockSize == 0 || v.DataSize == 0 || v.DataSize%v.BlockSize != 0 || v.HashOffset%v.BlockSize != 0 || v.HashOffset < v.DataSize {
		return "", "", 0, fmt.Errorf("%w: hash tree at %d over %d bytes", ErrTable, v.HashOffset, v.DataSize)
	}
	device := fmt.Sprintf("%d:%d", v.Major, v.Minor)
	return "verity", fmt.Sprintf("1 %s %s %d %d %d %d sha256 %x %x", device, device, v.BlockSize, v.BlockSize,
		v.DataSize/v.BlockSize, v.HashOffset/v.BlockSize, v.RootHash, v.Salt), v.DataSize / sectorSize, nil
}
