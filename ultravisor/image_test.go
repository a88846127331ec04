package ultravisor

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"sync"
	"testing"

	"github.com/secexec/secexec/secret"
	"github.com/secexec/secexec/seimage"
)

// testHosts are the private keys of three hosts.
var testHosts = sync.OnceValue(func() (keys [3]*ecdsa.PrivateKey) {
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader); err != nil {
			panic(err)
		}
	}
	return keys
})

// host returns the private key of a test host as firmware holds it.
func host(t testing.TB, n int) *ecdh.PrivateKey {
	t.Helper()
	key, err := testHosts()[n].ECDH()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Addresses of a test kernel's code; it is entered at 0x10000.
const (
	kernelCode = 0x12000
	kernelSize = 0x13000
)

// testKernel is what stage3b takes for a Linux image; code lies at 0x12000.
func testKernel(code []byte) []byte {
	kernel := make([]byte, kernelSize)
	copy(kernel[0x10000:], []byte{0xa7, 0xf4, 0x10, 0x00}) // j 0x12000
	copy(kernel[0x10008:], "S390EP")
	binary.BigEndian.PutUint64(kernel[0x10430:], 896) // longest command line
	copy(kernel[kernelCode:], code)
	return kernel
}

// sealed is a test image and all that there is to know of it. Tests change
// their own copy.
type sealed struct {
	bytes     []byte
	summary   *seimage.Summary
	headerKey secret.Bytes
	kernel    []byte
	initrd    []byte
	cmdline   []byte
}

// growing is an image file in memory that several may write to at once.
type growing struct {
	mu sync.Mutex
	b  []byte
}

func (g *growing) WriteAt(b []byte, at int64) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if end := int(at) + len(b); end > len(g.b) {
		g.b = append(g.b, make([]byte, end-len(g.b))...)
	}
	return copy(g.b[at:], b), nil
}

// seal makes an image for the first two test hosts, unless change says otherwise.
func seal(t testing.TB, change func(*seimage.Spec)) *sealed {
	t.Helper()
	s, err := create(change)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(change func(*seimage.Spec)) (*sealed, error) {
	s := &sealed{
		headerKey: secret.Random(seimage.HeaderKeySize),
		kernel:    testKernel(nil),
		initrd:    bytes.Repeat([]byte("initrd "), 1000), // no multiple of a page
		cmdline:   []byte("quiet panic=0"),
	}
	spec := seimage.Spec{
		Kernel:  seimage.Source{R: bytes.NewReader(s.kernel), Size: int64(len(s.kernel))},
		Initrd:  seimage.Source{R: bytes.NewReader(s.initrd), Size: int64(len(s.initrd))},
		Cmdline: s.cmdline, HeaderKey: s.headerKey,
		Hosts: []*ecdsa.PublicKey{&testHosts()[0].PublicKey, &testHosts()[1].PublicKey},
	}
	if change != nil {
		change(&spec)
	}
	var out growing
	var err error
	if s.summary, err = seimage.Create(context.Background(), &out, spec); err != nil {
		return nil, err
	}
	s.bytes = out.b
	return s, nil
}

// common is one image that tests only read.
var common = sync.OnceValue(func() *sealed {
	s, err := create(nil)
	if err != nil {
		panic(err)
	}
	return s
})

// ram is a guest's memory with the image loaded: a copy, a page longer.
func (s *sealed) ram() RAM {
	return append(append(make(RAM, 0, len(s.bytes)+2*seimage.PageSize), s.bytes...), make([]byte, seimage.PageSize)...)
}

// header is a copy of the image's SE header that may be changed.
func (s *sealed) header(t testing.TB) *seimage.Header {
	t.Helper()
	h, err := seimage.ParseHeader(s.summary.Header.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// reseal authenticates a changed header again and puts it into memory, as
// somebody could who holds the header key.
func (s *sealed) reseal(t testing.TB, mem RAM, change func(*seimage.Header, *seimage.Secrets)) {
	t.Helper()
	h := s.header(t)
	secrets, err := h.Open(s.headerKey)
	if err != nil {
		t.Fatal(err)
	}
	change(h, secrets)
	if err := h.Seal(s.headerKey, secrets); err != nil {
		t.Fatal(err)
	}
	copy(mem[s.summary.HeaderAddr:], h.Marshal())
}

// resealRaw is reseal for a change of the encrypted area's plain text, which
// may get longer. It tells the IPIB of the header's new size.
func (s *sealed) resealRaw(t testing.TB, mem RAM, change func(plain []byte) []byte) {
	t.Helper()
	h := s.header(t)
	block, err := aes.NewCipher(s.headerKey)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	public := func() []byte { b := h.Marshal(); return b[:len(b)-len(h.Encrypted)-len(h.Tag)] }
	plain, err := gcm.Open(nil, h.IV[:], append(append([]byte(nil), h.Encrypted...), h.Tag[:]...), public())
	if err != nil {
		t.Fatal(err)
	}
	plain = change(plain)
	h.Encrypted = make([]byte, len(plain))
	both := gcm.Seal(nil, h.IV[:], plain, public())
	copy(h.Encrypted, both)
	copy(h.Tag[:], both[len(plain):])
	copy(mem[s.summary.HeaderAddr:], h.Marshal())
	binary.BigEndian.PutUint64(mem[s.summary.IPIBAddr+128:], uint64(h.Size()))
}

// unpack does what stage3a asks for, both steps.
func unpack(u *Ultravisor, mem RAM, ipib uint64) (seimage.PSW, error) {
	if err := u.SetParameters(mem, ipib); err != nil {
		return seimage.PSW{}, err
	}
	return u.Unpack(mem)
}
