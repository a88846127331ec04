package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func sample() *Record {
	r := &Record{
		IdentitySeed: bytes.Repeat([]byte{0x11}, 32),
		Modules:      []Module{{File: "00-virtio_blk.ko"}, {File: "01-aes_s390.ko", Optional: true}},
		Root: Volume{
			Serial: "root", Key: bytes.Repeat([]byte{0x22}, KeySize), Cipher: Cipher,
			Offset: 16 << 20, Size: 64 << 20, FSType: "ext4",
		},
		Init: "/sbin/init", StopSignal: 38,
	}
	copy(r.ImageID[:], "image-identity-1")
	copy(r.Root.ID[:], "volume-identity1")
	return r
}

// full is a record with all there can be: root and data in partitions.
func full() *Record {
	r := sample()
	r.Root.Serial, r.Root.PartUUID, r.Root.FSType = "", [16]byte{0xaa, 0xbb}, "xfs"
	volume := func(n byte, kind string) Volume {
		return Volume{ID: [16]byte{n}, PartUUID: [16]byte{n, 1}, Key: bytes.Repeat([]byte{n}, KeySize), Cipher: Cipher, Offset: 16 << 20, Size: 1 << 20, FSType: kind, ReadOnly: kind == "erofs"}
	}
	r.Data = []DataVolume{{volume(3, "ext4"), "/srv"}, {volume(4, "erofs"), "/srv/models"}, {volume(5, "xfs"), "/var/lib/db"}}
	r.Data[2].Serial, r.Data[2].PartUUID = "db", [16]byte{}
	return r
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, r := range []*Record{sample(), full()} {
		b, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Unmarshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, r) {
			t.Errorf("got %v\nwants %v", got, r)
		}
		b.Wipe()
		if !bytes.Equal(got.Root.Key, r.Root.Key) {
			t.Error("parsed record shares memory with its encoding")
		}
		if s := fmt.Sprintf("%+v", got); strings.Contains(s, "34 34") || strings.Contains(s, "3 3 3") || !strings.Contains(s, "[redacted]") {
			t.Errorf("record prints its key: %s", s)
		}
		got.Wipe()
		for _, d := range append(got.Data, DataVolume{Volume: got.Root}) {
			if bytes.ContainsFunc(d.Key, func(c rune) bool { return c != 0 }) {
				t.Errorf("the key of %s is not wiped", d.Mount)
			}
		}
	}
}

// spoilers make a full record one that no guest could use.
var spoilers = map[string]func(*Record){
	"image id":         func(r *Record) { r.ImageID = [IDSize]byte{} },
	"identity seed":    func(r *Record) { r.IdentitySeed = r.IdentitySeed[:31] },
	"too many modules": func(r *Record) { r.Modules = make([]Module, MaxModules+1) },
	"module path":      func(r *Record) { r.Modules[0].File = "../x.ko" },
	"module no .ko":    func(r *Record) { r.Modules[0].File = "x.sh" },
	"module twice":     func(r *Record) { r.Modules[1].File = r.Modules[0].File },
	"init relative":    func(r *Record) { r.Init = "sbin/init" },
	"init dot dot":     func(r *Record) { r.Init = "/sbin/../init" },
	"init blank":       func(r *Record) { r.Init = "/sbin/in it" },
	"init root":        func(r *Record) { r.Init = "/" },
	"signal 0":         func(r *Record) { r.StopSignal = 0 },
	"signal 65":        func(r *Record) { r.StopSignal = 65 },
	"volume id":        func(r *Record) { r.Root.ID = [IDSize]byte{} },
	"no place":         func(r *Record) { r.Root.PartUUID = [16]byte{} },
	"two places":       func(r *Record) { r.Root.Serial = "root" },
	"erofs to write":   func(r *Record) { r.Data[1].ReadOnly = false },
	"too much data":    func(r *Record) { r.Data = make([]DataVolume, MaxData+1) },
	"data key":         func(r *Record) { r.Data[0].Key = nil },
	"id twice":         func(r *Record) { r.Data[0].ID = r.Root.ID },
	"partition twice":  func(r *Record) { r.Data[1].PartUUID = r.Data[0].PartUUID },
	"key twice":        func(r *Record) { r.Data[2].Key = r.Data[0].Key },
	"mount relative":   func(r *Record) { r.Data[0].Mount = "srv" },
	"mount root":       func(r *Record) { r.Data[0].Mount = "/" },
	"mount twice":      func(r *Record) { r.Data[2].Mount = "/srv" },
	"mount hides one":  func(r *Record) { r.Data[2].Mount = "/var"; r.Data[0].Mount = "/var/x" },
	"mount at /proc":   func(r *Record) { r.Data[0].Mount = "/proc" },
	"mount in /run":    func(r *Record) { r.Data[0].Mount = "/run/x" },
	"serial long":      func(r *Record) { r.Root.PartUUID, r.Root.Serial = [16]byte{}, strings.Repeat("a", 21) },
	"serial slash":     func(r *Record) { r.Root.PartUUID, r.Root.Serial = [16]byte{}, "a/b" },
	"key short":        func(r *Record) { r.Root.Key = r.Root.Key[:32] },
	"null cipher":      func(r *Record) { r.Root.Cipher = "cipher_null-ecb" },
	"offset unaligned": func(r *Record) { r.Root.Offset = 512 },
	"size zero":        func(r *Record) { r.Root.Size = 0 },
	"range overflow":   func(r *Record) { r.Root.Offset = ^uint64(0) - 4095 },
	"file system":      func(r *Record) { r.Root.FSType = "vfat" },
}

func TestCheckRefusals(t *testing.T) {
	t.Parallel()
	for name, spoil := range spoilers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := full()
			spoil(r)
			if _, err := r.Marshal(); !errors.Is(err, ErrInvalid) {
				t.Errorf("Marshal: %v", err)
			}
		})
	}
}

func TestUnmarshalRefusals(t *testing.T) {
	t.Parallel()
	whole, err := full().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, err := Unmarshal(whole[:n]); !errors.Is(err, ErrInvalid) {
			t.Fatalf("first %d bytes: %v", n, err)
		}
	}
	cases := map[string][]byte{
		"trailing byte": append(bytes.Clone(whole), 0),
		"too large":     make([]byte, MaxSize+1),
		"version":       edit(whole, 9, 1),
		"magic":         edit(whole, 0, 's'),
		"flag":          edit(whole, len(whole)-1, 2),
	}
	for name, b := range cases {
		if _, err := Unmarshal(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func edit(b []byte, at int, v byte) []byte {
	c := bytes.Clone(b)
	c[at] = v
	return c
}

func FuzzUnmarshal(f *testing.F) {
	whole, err := full().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(whole))
	if whole, err = sample().Marshal(); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(whole))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Unmarshal(b)
		if err != nil {
			return
		}
		again, err := r.Marshal()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("parsed record re-encodes to other bytes: %v", err)
		}
	})
}

func TestHandoff(t *testing.T) {
	t.Parallel()
	h := &Handoff{IdentitySeed: bytes.Repeat([]byte{7}, 32), BootID: [16]byte{1}, StopSignal: 38, Stages: []Stage{{"kernel", 1200}, {"mounted", 1 << 40}}}
	b, err := h.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := UnmarshalHandoff(b)
	if err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("got %+v %v", got, err)
	}
	for n := range b {
		if _, err := UnmarshalHandoff(b[:n]); !errors.Is(err, ErrInvalid) {
			t.Fatalf("first %d bytes: %v", n, err)
		}
	}
	if _, err := UnmarshalHandoff(append(bytes.Clone(b), 0)); !errors.Is(err, ErrInvalid) {
		t.Errorf("byte added: %v", err)
	}
}
