package devmapper

import "fmt"

// Crypt is a dm-crypt target.
type Crypt struct {
	Cipher         string // such as aes-xts-plain64
	TagSize        int    // bytes of a sector's tag, which a dm-integrity device below keeps; 0: none
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
	options := fmt.Sprintf("1 sector_size:%d", c.SectorSize)
	if c.TagSize > 0 {
		options = fmt.Sprintf("2 integrity:%d:aead sector_size:%d", c.TagSize, c.SectorSize)
	}
	params = fmt.Sprintf("%s :%d:logon:%s 0 %d:%d %d %s",
		c.Cipher, c.KeySize, c.KeyDescription, c.Major, c.Minor, c.Offset/sectorSize, options)
	return "crypt", params, c.Size / sectorSize, nil
}
