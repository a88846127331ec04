package luks2

import (
	"crypto/subtle"
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
	scratch := make([]byte, 4, 4+h.Size()) // once, there are thousands of stripes
	defer clear(scratch[:cap(scratch)])
	for ; len(stripes) > 0; stripes = stripes[len(acc):] {
		subtle.XORBytes(acc, acc, stripes[:len(acc)])
		diffuse(acc, h, scratch)
	}
}

// diffuse takes 4 bytes of scratch, with room for a sum behind them.
func diffuse(b []byte, h hash.Hash, scratch []byte) {
	for i := 0; i*h.Size() < len(b); i++ {
		block := b[i*h.Size() : min((i+1)*h.Size(), len(b))]
		h.Reset()
		binary.BigEndian.PutUint32(scratch, uint32(i))
		h.Write(scratch)
		h.Write(block)
		copy(block, h.Sum(scratch[4:4]))
	}
}
