package luks2

import (
	"encoding/binary"
	"hash"
)

// split is LUKS1's anti-forensic splitter (LUKS1 On-Disk Format Specification
// 1.2.3, section 2.4): random stripes, and a last one that gives back the key
// only with all of them.
func split(out, key, random []byte, h hash.Hash) {
	copy(out, random)
	last := out[len(random):]
	clear(last)
	gather(last[:len(key)], random, h)
	for i := range key {
		last[i] ^= key[i]
	}
}

// merge is the inverse of split.
func merge(key, material []byte, h hash.Hash) {
	n := len(material) - len(key)
	gather(key, material[:n], h)
	for i := range key {
		key[i] ^= material[n+i]
	}
}

// gather folds stripes into acc, which is as long as one.
func gather(acc, stripes []byte, h hash.Hash) {
	clear(acc)
	for ; len(stripes) > 0; stripes = stripes[len(acc):] {
		for i := range acc {
			acc[i] ^= stripes[i]
		}
		diffuse(acc, h)
	}
}

func diffuse(b []byte, h hash.Hash) {
	var number [4]byte
	for i := 0; i*h.Size() < len(b); i++ {
		block := b[i*h.Size() : min((i+1)*h.Size(), len(b))]
		h.Reset()
		binary.BigEndian.PutUint32(number[:], uint32(i))
		h.Write(number[:])
		h.Write(block)
		copy(block, h.Sum(nil))
	}
}
