package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"
)

// As mkswap -L secexec -U 01020304-… writes it on either kind of machine.
func TestSwapHeader(t *testing.T) {
	t.Parallel()
	id := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	for order, golden := range map[binary.ByteOrder]string{
		binary.BigEndian:    "00000001" + "000000ff" + "00000000" + "0102030405060708090a0b0c0d0e0f10" + "73656365786563" + "000000000000000000",
		binary.LittleEndian: "01000000" + "ff000000" + "00000000" + "0102030405060708090a0b0c0d0e0f10" + "73656365786563" + "000000000000000000",
	} {
		b, err := swapHeader(order, 1<<20, id)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := hex.DecodeString(golden)
		if len(b) != 4096 || !bytes.Equal(b[1024:1068], want) || string(b[4086:]) != "SWAPSPACE2" {
			t.Errorf("%v: %x … %q", order, b[1024:1068], b[4086:])
		}
		clear(b[1024:1068])
		if !bytes.Equal(b[:4086], make([]byte, 4086)) {
			t.Errorf("%v: more than the header's fields is set", order)
		}
	}
	for _, size := range []uint64{0, 4096, 1 << 45} {
		if _, err := swapHeader(binary.BigEndian, size, id); err == nil {
			t.Errorf("%d bytes are taken", size)
		}
	}
}
