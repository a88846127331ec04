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
		Cipher: "aes-xts-plain64", KeySize: 64, KeyDescription: "secexec:root",
		Major: 254, Minor: 16, Offset: 16 << 20, Size: 64 << 20, SectorSize: 4096,
	}
}

func TestGoldenMessages(t *testing.T) {
	t.Parallel()
	for name, order := range map[string]binary.ByteOrder{"big": binary.BigEndian, "little": binary.LittleEndian} {
		b, err := tableMessage(order, "secexec-root", false, root())
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

func TestCryptTable(t *testing.T) {
	t.Parallel()
	kind, got, sectors, err := root().Table()
	if want := "aes-xts-plain64 :64:logon:secexec:root 0 254:16 32768 1 sector_size:4096"; err != nil || kind != "crypt" || sectors != 64<<11 || got != want {
		t.Errorf("got %s %q %d %v, wants %q", kind, got, sectors, err, want)
	}
	for name, spoil := range map[string]func(*Crypt){
		"offset": func(c *Crypt) { c.Offset = 100 }, "size": func(c *Crypt) { c.Size = 512 }, "nothing": func(c *Crypt) { c.Size = 0 },
	} {
		c := root()
		spoil(&c)
		if _, _, _, err := c.Table(); !errors.Is(err, ErrTable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", string(make([]byte, nameSize))} {
		if _, err := tableMessage(binary.BigEndian, name, false, root()); !errors.Is(err, ErrTable) {
			t.Errorf("name of %d bytes: %v", len(name), err)
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
