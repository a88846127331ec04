package compressed

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// xzReader reads xz files, as xz-file-format-1.1.0 describes them. It parses
// the container itself and leaves LZMA2 to the library, because that one's own
// container reader allocates whatever dictionary a block asks for, up to 4 GiB.
type xzReader struct {
	in      *counter
	check   func() hash.Hash // of the stream in hand, nil for none
	flags   [2]byte
	block   io.Reader // of the block in hand, nil between blocks
	sum     hash.Hash
	start   int64 // where the block's header began
	limits  [2]int64
	dataAt  int64
	out     int64 // bytes that came out of the block
	records []byte
	blocks  uint64
	err     error
}

const (
	xzMagic  = "\xfd7zXZ\x00"
	xzFooter = "YZ"
	unknown  = -1
	maxIndex = 16 << 20 // bytes of a stream's index: a record has up to 18
)

var errXZ = errors.New("not a well-formed xz file")

var xzChecks = map[byte]func() hash.Hash{
	0:  nil,
	1:  func() hash.Hash { return crc32.NewIEEE() },
	4:  func() hash.Hash { return crc64.New(crc64.MakeTable(crc64.ECMA)) },
	10: sha256.New,
}

func newXZ(r io.Reader) (*xzReader, error) {
	x := &xzReader{in: &counter{r: bufio.NewReaderSize(r, 64<<10)}}
	if err := x.streamHeader(); err != nil {
		return nil, noEOF(err)
	}
	return x, nil
}

func (x *xzReader) Read(b []byte) (int, error) {
	for x.err == nil {
		if x.block == nil {
			if x.err = x.next(); x.err != nil {
				break
			}
			continue
		}
		n, err := x.block.Read(b)
		if x.sum != nil {
			x.sum.Write(b[:n])
		}
		x.out += int64(n)
		if err == io.EOF {
			err = x.endBlock()
			x.block = nil
		}
		x.err = noEOF(err)
		if n > 0 || len(b) == 0 {
			return n, nil
		}
	}
	return 0, x.err
}

// next goes to the next block. io.EOF is the file's end.
func (x *xzReader) next() error {
	x.start = x.in.n
	size, err := x.in.ReadByte()
	if err != nil {
		return noEOF(err)
	}
	if size != 0 {
		return noEOF(x.blockHeader(size))
	}
	if err := noEOF(x.endStream()); err != nil {
		return err
	}
	// Padding of four zero bytes each, and perhaps another stream.
	for {
		head, err := x.in.r.Peek(4)
		if err == io.EOF && len(head) == 0 {
			return io.EOF
		}
		if err != nil {
			return noEOF(err)
		}
		if !bytes.Equal(head, make([]byte, 4)) {
			return noEOF(x.streamHeader())
		}
		if err := x.in.zeros(4); err != nil {
			return err
		}
	}
}

func (x *xzReader) streamHeader() error {
	var b [12]byte
	if _, err := io.ReadFull(x.in, b[:]); err != nil {
		return err
	}
	check, known := xzChecks[b[7]]
	if string(b[:6]) != xzMagic || b[6] != 0 || !known || crc32.ChecksumIEEE(b[6:8]) != binary.LittleEndian.Uint32(b[8:]) {
		return fmt.Errorf("%w: stream header", errXZ)
	}
	x.flags, x.check, x.records, x.blocks = [2]byte(b[6:8]), check, nil, 0
	return nil
}

// blockHeader reads a header of (size+1)*4 bytes, the first of which was read:
// flags, optional sizes, the filters, zeros, CRC32. LZMA2 is filter 0x21 with
// one byte of properties, the dictionary's size.
func (x *xzReader) blockHeader(size byte) error {
	b := make([]byte, (int(size)+1)*4)
	b[0] = size
	if _, err := io.ReadFull(x.in, b[1:]); err != nil {
		return err
	}
	body := b[:len(b)-4]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(b[len(body):]) {
		return fmt.Errorf("%w: block header", errXZ)
	}
	flags, rest := body[1], body[2:]
	x.limits = [2]int64{unknown, unknown}
	for i, bit := range []byte{0x40, 0x80} { // compressed and uncompressed size
		if flags&bit == 0 {
			continue
		}
		v, n := binary.Uvarint(rest)
		if n <= 0 || v > 1<<62 {
			return fmt.Errorf("%w: block header", errXZ)
		}
		x.limits[i], rest = int64(v), rest[n:]
	}
	if flags&^0xc0 != 0 || len(rest) < 3 || rest[0] != 0x21 || rest[1] != 1 || len(bytes.Trim(rest[3:], "\x00")) > 0 {
		return fmt.Errorf("%w: it has another filter than LZMA2", errXZ)
	}
	// 2 or 3 times a power of two; 40 stands for 4 GiB.
	p := int(rest[2])
	dictionary := int64(2|p&1) << (p/2 + 11)
	if p > 40 || dictionary > maxDictionary {
		return fmt.Errorf("xz with a dictionary over %d MiB: %w", maxDictionary>>20, ErrTooLarge)
	}
	x.dataAt, x.out = x.in.n, 0
	if x.sum = nil; x.check != nil {
		x.sum = x.check()
	}
	var err error
	x.block, err = lzma.Reader2Config{DictCap: int(dictionary)}.NewReader2(x.in)
	return err
}

// endBlock reads padding and check, and notes the block for the index.
func (x *xzReader) endBlock() error {
	packed := x.in.n - x.dataAt
	for i, n := range []int64{packed, x.out} {
		if x.limits[i] != unknown && x.limits[i] != n {
			return fmt.Errorf("%w: a block's size", errXZ)
		}
	}
	unpadded := x.in.n - x.start
	if err := x.in.zeros(-packed & 3); err != nil {
		return err
	}
	if x.sum != nil {
		want := make([]byte, x.sum.Size())
		if _, err := io.ReadFull(x.in, want); err != nil {
			return err
		}
		got := x.sum.Sum(nil)
		if len(got) <= 8 { // CRCs are little-endian
			for i, j := 0, len(got)-1; i < j; i, j = i+1, j-1 {
				got[i], got[j] = got[j], got[i]
			}
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%w: a block's check sum", errXZ)
		}
		unpadded += int64(len(want))
	}
	x.records = binary.AppendUvarint(x.records, uint64(unpadded))
	x.records = binary.AppendUvarint(x.records, uint64(x.out))
	if x.blocks++; len(x.records) > maxIndex {
		return fmt.Errorf("xz with more than %d bytes of index: %w", maxIndex, ErrTooLarge)
	}
	return nil
}

// endStream compares index and footer with what the blocks made them; the
// index's first byte was read.
func (x *xzReader) endStream() error {
	want := append(binary.AppendUvarint([]byte{0}, x.blocks), x.records...)
	want = append(want, make([]byte, -len(want)&3)...)
	want = binary.LittleEndian.AppendUint32(want, crc32.ChecksumIEEE(want))
	footer := binary.LittleEndian.AppendUint32(nil, uint32(len(want)/4-1))
	footer = append(footer, x.flags[:]...)
	want = binary.LittleEndian.AppendUint32(want, crc32.ChecksumIEEE(footer))
	want = append(append(want, footer...), xzFooter...)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(x.in, got[1:]); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: its index", errXZ)
	}
	return nil
}

// counter counts the bytes read from it.
type counter struct {
	r *bufio.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// zeros reads n zero bytes, at most four.
func (c *counter) zeros(n int64) error {
	var b [4]byte
	if _, err := io.ReadFull(c, b[:n]); err != nil {
		return err
	}
	if b != [4]byte{} {
		return fmt.Errorf("%w: padding is not zero", errXZ)
	}
	return nil
}
