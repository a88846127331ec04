package devmapper

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "rewrite golden files")

func root() Crypt {
	return Crypt{
		Name: "secexec-root", Cipher: "aes-xts-plain64", KeySize: 64, KeyDescription: "secexec:root",
		Major: 254, Minor: 16, Offset: 16 << 20, Size: 64 << 20, SectorSize: 4096,
	}
}

func TestGoldenMessages(t *testing.T) {
	t.Parallel()
	for name, order := range map[string]binary.ByteOrder{"big": binary.BigEndian, "little": binary.LittleEndian} {
		c := root()
		b, err := tableMessage(order, &c)
		if err != nil {
			t.Fatal(err)
		}
		golden := "testdata/table-load." + name + "-endian.hex"
		got := hex.Dump(b)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(golden); err != nil || string(want) != got {
			t.Errorf("differs from %s: %v\n%s", golden, err, got)
		}
	}
}

func TestParams(t *testing.T) {
	t.Parallel()
	c := root()
	got, err := c.params()
	if want := "aes-xts-plain64 :64:logon:secexec:root 0 254:16 32768 1 sector_size:4096"; err != nil || got != want {
		t.Errorf("got %q %v, wants %q", got, err, want)
	}
	for name, spoil := range map[string]func(*Crypt){
		"no name": func(c *Crypt) { c.Name = "" }, "long name": func(c *Crypt) { c.Name = string(make([]byte, nameSize)) },
		"offset": func(c *Crypt) { c.Offset = 100 }, "size": func(c *Crypt) { c.Size = 512 }, "nothing": func(c *Crypt) { c.Size = 0 },
	} {
		c := root()
		spoil(&c)
		if _, err := c.params(); !errors.Is(err, ErrCrypt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeviceNumber(t *testing.T) {
	t.Parallel()
	b := make([]byte, headerSize)
	binary.BigEndian.PutUint64(b[40:], 253<<8|0x45|0x678<<20)
	if major, minor := device(binary.BigEndian, b); major != 253 || minor != 0x67845 {
		t.Errorf("got %d:%#x", major, minor)
	}
}
