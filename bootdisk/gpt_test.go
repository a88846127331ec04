package bootdisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func sampleTable() *Table {
	return &Table{
		DiskID: mustGUID("00112233-4455-6677-8899-aabbccddeeff"), Size: 8 * mebi,
		Partitions: []Partition{
			{TypeBoot, mustGUID("11111111-2222-3333-4444-555555555555"), "boot", mebi, 2 * mebi},
			{TypeLUKS, mustGUID("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"), "Wurzel √", 3 * mebi, 4 * mebi},
		},
	}
}

// tableDisk lays a table out on a disk in memory.
func tableDisk(table *Table) []byte {
	disk := make([]byte, table.Size)
	if err := table.Write(writer(disk)); err != nil {
		panic(err)
	}
	return disk
}

// writer writes to memory.
type writer []byte

func (w writer) WriteAt(b []byte, at int64) (int, error) { return copy(w[at:], b), nil }

func TestTableRoundTrip(t *testing.T) {
	t.Parallel()
	want := sampleTable()
	got, err := ReadTable(bytes.NewReader(tableDisk(want)), want.Size)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v, wants %v", got, err, want)
	}
}

// Another program's view: util-linux's sfdisk finds nothing to complain of.
func TestPremiseSfdiskReadsTable(t *testing.T) {
	t.Parallel()
	sfdisk, err := exec.LookPath("sfdisk")
	if err != nil {
		if sfdisk, err = exec.LookPath("/usr/sbin/sfdisk"); err != nil {
			t.Skip("sfdisk is not installed (Debian package fdisk)")
		}
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, tableDisk(sampleTable()), 0o600); err != nil {
		t.Fatal(err)
	}
	verify, err := exec.Command(sfdisk, "--verify", path).CombinedOutput()
	if err != nil || !strings.Contains(string(verify), "No errors detected") {
		t.Errorf("%v\n%s", err, verify)
	}
	out, err := exec.Command(sfdisk, "--dump", path).CombinedOutput()
	for _, want := range []string{
		"label-id: 00112233-4455-6677-8899-AABBCCDDEEFF", "first-lba: 34", "last-lba: 16350",
		"start=        2048, size=        4096, type=BC13C2FF-59E6-4262-A352-B275FD6F7172, uuid=11111111-2222-3333-4444-555555555555, name=\"boot\"",
		"start=        6144, size=        8192, type=CA7D7CCB-63ED-4C53-861C-1742536059CC, uuid=AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE",
	} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%v, no %q in\n%s", err, want, out)
		}
	}
}

func TestReadTableRefusals(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	const header, entries = BlockSize, 2 * BlockSize
	// sums makes the checksums right again, so that the rule itself is met.
	sums := func(d []byte) {
		le.PutUint32(d[header+88:], crc32.ChecksumIEEE(d[entries:entries+gptEntries*gptEntrySize]))
		le.PutUint32(d[header+16:], 0)
		le.PutUint32(d[header+16:], crc32.ChecksumIEEE(d[header:header+gptHeaderSize]))
	}
	cases := map[string]func([]byte){
		"signature":         func(d []byte) { d[header] = 'X' },
		"header checksum":   func(d []byte) { d[header+56]++ },
		"entry checksum":    func(d []byte) { d[entries+16]++ },
		"number of entries": func(d []byte) { le.PutUint32(d[header+80:], 1<<31); sums(d) },
		"size of entries":   func(d []byte) { le.PutUint32(d[header+84:], 256); sums(d) },
		"place of entries":  func(d []byte) { le.PutUint64(d[header+72:], 1<<60); sums(d) },
		"same GUID twice":   func(d []byte) { copy(d[entries+128+16:], d[entries+16:entries+32]); sums(d) },
		"overlap":           func(d []byte) { le.PutUint64(d[entries+128+32:], 2050); sums(d) },
		"before the first":  func(d []byte) { le.PutUint64(d[entries+32:], 33); sums(d) },
		"beyond the disk":   func(d []byte) { le.PutUint64(d[entries+128+40:], 1<<40); sums(d) },
		"ends before start": func(d []byte) { le.PutUint64(d[entries+40:], 40); sums(d) },
	}
	for name, spoil := range cases {
		disk := tableDisk(sampleTable())
		spoil(disk)
		if _, err := ReadTable(bytes.NewReader(disk), int64(len(disk))); !errors.Is(err, ErrTable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadTable(bytes.NewReader(nil), 0); err == nil {
		t.Error("empty disk")
	}
}

func TestParseGUID(t *testing.T) {
	t.Parallel()
	const text = "5eead9a9-fe09-4a1e-a1d7-520d00531306"
	for _, s := range []string{text, strings.ToUpper(text)} {
		if g, err := ParseGUID(s); err != nil || g.String() != text || g.swap().swap() != g {
			t.Errorf("%s: %s %v", s, g, err)
		}
	}
	for _, s := range []string{"", text[1:], text + "0", strings.ReplaceAll(text, "-", "0"), "g" + text[1:], strings.Repeat("-", 36)} {
		if _, err := ParseGUID(s); !errors.Is(err, ErrGUID) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzReadTable(f *testing.F) {
	f.Add(tableDisk(sampleTable())[:34*BlockSize])
	f.Fuzz(func(t *testing.T, front []byte) {
		table, err := ReadTable(bytes.NewReader(front), 8*mebi)
		if err != nil {
			return
		}
		for _, p := range table.Partitions {
			if p.Start < 0 || p.Size <= 0 || p.Start+p.Size > 8*mebi {
				t.Errorf("partition %v", p)
			}
		}
	})
}
