package devmapper

import "fmt"

// Crypt is a dm-crypt target.
type Crypt struct {
	Cipher         string // such as aes-xts-plain64
	KeySize        int    // bytes
	KeyDescription string // of the logon key in the kernel's keyring
	Major, Minor   uint32 // of the encrypted disk
	Offset         uint64 // bytes from its start to the payload
	Size           uint64 // bytes of payload
	SectorSize     uint64 // dm-crypt's unit of encryption in bytes
}

// Table implements Target (Linux, Documentation/admin-guide/device-mapper/
// dm-crypt.rst). The IV counts 512-byte sectors from 0 on, as in a LUKS2 segment
// with iv_tweak 0: no iv_large_sectors.
func (c Crypt) Table() (kind, params string, sectors uint64, err error) {
	if c.Offset%sectorSize != 0 || c.Size%c.SectorSize != 0 || c.Size == 0 {
		return "", "", 0, fmt.Errorf("%w: payload at %d of %d bytes", ErrTable, c.Offset, c.Size)
	}
	params = fmt.Sprintf("%s :%d:logon:%s 0 %d:%d %d 1 sector_size:%d",
		c.Cipher, c.KeySize, c.KeyDescription, c.Major, c.Minor, c.Offset/sectorSize, c.SectorSize)
	return "crypt", params, c.Size / sectorSize, nil
}
