package main

import (
	"encoding/binary"
	"fmt"
	"math"
)

// swapPage is the size of a page, and so of the header.
const swapPage = 4096

// swapHeader returns the first page of a swap space (union swap_header in
// linux/swap.h, as mkswap writes it), in the byte order of the kernel that is
// to use it.
func swapHeader(order binary.ByteOrder, size uint64, id [16]byte) ([]byte, error) {
	pages := size / swapPage
	if pages < 2 || pages > math.MaxUint32 {
		return nil, fmt.Errorf("swap space of %d bytes", size)
	}
	b := make([]byte, swapPage)
	order.PutUint32(b[1024:], 1) // version
	order.PutUint32(b[1028:], uint32(pages-1))
	copy(b[1036:], id[:]) // after the number of bad pages, 0
	copy(b[1052:], "secexec")
	copy(b[swapPage-10:], "SWAPSPACE2")
	return b, nil
}
