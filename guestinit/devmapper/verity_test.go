package devmapper

import (
	"errors"
	"testing"
)

func TestVerityTable(t *testing.T) {
	t.Parallel()
	tree := Verity{Major: 252, Minor: 3, DataSize: 64 << 20, HashOffset: 64<<20 + 4096, BlockSize: 4096, RootHash: [32]byte{0: 0x01, 31: 0xff}, Salt: [32]byte{31: 0x10}}
	kind, params, sectors, err := tree.Table()
	const zeros = "000000000000000000000000000000000000000000000000000000000000"
	if want := "1 252:3 252:3 4096 4096 16384 16385 sha256 01" + zeros + "ff 00" + zeros + "10"; err != nil || kind != "verity" || sectors != 64<<11 || params != want {
		t.Errorf("got %s %q of %d sectors %v, wants %q", kind, params, sectors, err, want)
	}
	for name, spoil := range map[string]func(*Verity){
		"no blocks": func(v *Verity) { v.BlockSize = 0 }, "nothing": func(v *Verity) { v.DataSize = 0 }, "size": func(v *Verity) { v.DataSize = 512 },
		"tree in the data": func(v *Verity) { v.HashOffset = 0 }, "half a block": func(v *Verity) { v.HashOffset += 512 },
	} {
		spoiled := tree
		spoil(&spoiled)
		if _, _, _, err := spoiled.Table(); !errors.Is(err, ErrTable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
