package erofs

import (
	"encoding/binary"
	"slices"
)

const direntSize = 12

// withDots are a folder's names and its "." and "..", in the order of bytes that
// lookups search by.
func withDots(names []string) []string {
	all := append(slices.Clone(names), ".", "..")
	slices.Sort(all)
	return all
}

// inBlocks calls f for the names of each of a folder's blocks, with the bytes
// that they take.
func inBlocks(names []string, f func(names []string, size int)) {
	for names = withDots(names); len(names) > 0; {
		n, size := 0, 0
		for n < len(names) && size+direntSize+len(names[n]) <= blockSize {
			size += direntSize + len(names[n])
			n++
		}
		f(names[:n], size)
		names = names[n:]
	}
}

// folderSize is the size of a folder with these names.
func folderSize(names []string) (total int64) {
	inBlocks(names, func(_ []string, size int) {
		total = (total+blockSize-1)/blockSize*blockSize + int64(size)
	})
	return total
}

// folder is a folder's content: in each block entries, then their names.
func (n *Node) folder(parent *Node) []byte {
	var out []byte
	inBlocks(n.names(), func(names []string, size int) {
		out = append(out, make([]byte, -len(out)&(blockSize-1))...)
		entries, text := make([]byte, 0, size), []byte(nil)
		for _, name := range names {
			kid := n.Kids[name]
			switch name {
			case ".":
				kid = n
			case "..":
				kid = parent
			}
			entries = binary.LittleEndian.AppendUint64(entries, kid.nid)
			entries = binary.LittleEndian.AppendUint16(entries, uint16(len(names)*direntSize+len(text)))
			entries = append(entries, direntTypes[kid.Mode&typeMask], 0)
			text = append(text, name...)
		}
		out = append(append(out, entries...), text...)
	})
	return out
}
