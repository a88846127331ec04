package luks2

import (
	"crypto/hmac"
	"crypto/subtle"
	"encoding/binary"
	"hash"

	"github.com/secexec/secexec/secret"
)

// pbkdf2 derives a key of size bytes from a pass phrase (RFC 8018, 5.2).
// crypto/pbkdf2 takes the pass phrase as a string and copies it once more;
// nobody can wipe either.
func pbkdf2(h func() hash.Hash, passphrase secret.Bytes, salt []byte, iterations, size int) secret.Bytes {
	prf := hmac.New(h, passphrase)
	out := make(secret.Bytes, 0, (size+prf.Size()-1)/prf.Size()*prf.Size())
	u := make(secret.Bytes, 0, prf.Size())
	defer func() { u.Wipe() }()
	for block := uint32(1); len(out) < size; block++ {
		prf.Reset()
		prf.Write(salt)
		prf.Write(binary.BigEndian.AppendUint32(nil, block))
		out = prf.Sum(out)
		t := out[len(out)-prf.Size():]
		u = append(u[:0], t...)
		for range iterations - 1 {
			prf.Reset()
			prf.Write(u)
			u = prf.Sum(u[:0])
			subtle.XORBytes(t, t, u)
		}
	}
	return out[:size]
}
