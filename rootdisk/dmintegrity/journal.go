package dmintegrity

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The journal is sections. A section is 8 units with its entries, then a sector
// of data for each entry. Entry n stands in unit n%8, the n/8th there:
//
//	number of the sector's first unit, u64; its upper half is all ones in an unused entry
//	8 × 8 bytes that the commit ids cover in the entry's sector of data
//	its tag
//
// Each unit ends in a commit id: the pass over the journal in which it was
// written, 0 to 3, and the unit's place in the journal (struct journal_entry,
// struct journal_sector and replay_journal).
const (
	entryUnits    = 8
	entrySize     = 8 + SectorSize/unit*commitID + TagSize // a multiple of 8
	entriesInUnit = (unit - 2*commitID) / entrySize        // 8 bytes are a MAC's, which is not in use
	entries       = entriesInUnit * entryUnits
	sectionUnits  = entryUnits + entries*SectorSize/unit
	sectionSize   = sectionUnits * unit
	commitID      = 8
	passes        = 4
	unused        = 0xffffffff

	maxSections = 4096 // 528 MiB, eight times dm-integrity's default at most
)

// id is a unit's commit id.
func id(section, u, pass int) uint64 {
	return 0x1111111111111111*uint64(pass+1) ^ (uint64(section)<<32 | uint64(u))
}

// WriteJournal writes an empty journal to its place behind the superblock, w.
func (l *Layout) WriteJournal(w io.WriterAt) error {
	b := make([]byte, sectionSize)
	le := binary.LittleEndian
	for n := range entries {
		le.PutUint32(b[entryAt(n)+4:], unused)
	}
	for s := range l.Sections {
		for u := range sectionUnits {
			le.PutUint64(b[(u+1)*unit-commitID:], id(s, u, 0))
		}
		if _, err := w.WriteAt(b, superblock+int64(s)*sectionSize); err != nil {
			return err
		}
	}
	return nil
}

// entryAt is an entry's place in its section.
func entryAt(n int) int { return n%entryUnits*unit + n/entryUnits*entrySize }

// Journal are the sectors that stand in a device's journal and not yet, or also,
// at their place.
type Journal struct {
	r       io.ReaderAt
	sectors map[int64]pending // by byte of data
}

type pending struct {
	at    int64 // in the device
	entry [entrySize]byte
}

// ReadJournal reads what dm-integrity would replay: all sections that were
// written in the last pass but one and after it, up to the first that was not
// written whole.
func (l *Layout) ReadJournal(r io.ReaderAt) (*Journal, error) {
	j := &Journal{r: r, sectors: make(map[int64]pending)}
	pass := make([]int, l.Sections) // of each section, -1: of several
	var seen [passes]bool
	var last [passes]int // the last section with a unit of the pass
	b := make([]byte, sectionSize)
	for s := range pass {
		if err := l.section(r, s, b); err != nil {
			return nil, err
		}
		for u := range sectionUnits {
			p := passOf(b, s, u)
			if p < 0 {
				return nil, fmt.Errorf("%w: unit %d of journal section %d has no commit id", ErrDevice, u, s)
			}
			if seen[p], last[p] = true, s; u == 0 {
				pass[s] = p
			} else if pass[s] != p {
				pass[s] = -1
			}
		}
	}
	newest, err := newestPass(seen)
	if err != nil {
		return nil, err
	}
	want, s := before(newest), last[newest]+1
	if !seen[want] && seen[before(want)] {
		return j, nil // dm-integrity takes it for empty
	}
	for n := 0; n < l.Sections; n, s = n+1, s+1 {
		if s >= l.Sections {
			s, want = 0, (want+1)%passes
		}
		if pass[s] != want {
			break
		}
		if err := l.section(r, s, b); err != nil {
			return nil, err
		}
		j.add(b, s, l.Provided)
	}
	return j, nil
}

func (l *Layout) section(r io.ReaderAt, s int, b []byte) error {
	if n, err := r.ReadAt(b, superblock+int64(s)*sectionSize); n < len(b) {
		return fmt.Errorf("%w: it ends in its journal: %w", ErrDevice, err)
	}
	return nil
}

func before(pass int) int { return (pass + passes - 1) % passes }

// passOf tells in which pass a unit was written, -1 where it says none.
func passOf(b []byte, section, u int) int {
	got := binary.LittleEndian.Uint64(b[(u+1)*unit-commitID:])
	for p := range passes {
		if got == id(section, u, p) {
			return p
		}
	}
	return -1
}

// newestPass finds the pass before the first that does not occur.
func newestPass(seen [passes]bool) (int, error) {
	free := passes - 1
	if !seen[free] {
		for free > 0 && !seen[free-1] {
			free--
		}
		return before(free), nil
	}
	for free = range passes {
		if !seen[free] {
			return before(free), nil
		}
	}
	return 0, fmt.Errorf("%w: its journal has units of all passes", ErrDevice)
}

// add takes over a section's entries. Later ones win.
func (j *Journal) add(b []byte, section int, provided int64) {
	for n := range entries {
		var e pending
		copy(e.entry[:], b[entryAt(n):])
		first := binary.LittleEndian.Uint64(e.entry[:])
		if first>>32 == unused || first >= uint64(provided/unit) {
			continue
		}
		e.at = superblock + int64(section)*sectionSize + entryUnits*unit + int64(n)*SectorSize
		j.sectors[int64(first)*unit/SectorSize*SectorSize] = e
	}
}

// Len is how many sectors the journal holds.
func (j *Journal) Len() int { return len(j.sectors) }

// Sector overwrites a sector and its tag with what the journal has for it, and
// leaves them alone where it has nothing. at is its first byte of data.
func (j *Journal) Sector(at int64, sector, tag []byte) error {
	e, ok := j.sectors[at]
	if !ok {
		return nil
	}
	if n, err := j.r.ReadAt(sector[:SectorSize], e.at); n < SectorSize {
		return fmt.Errorf("%w: it ends in its journal: %w", ErrDevice, err)
	}
	for u := range SectorSize / unit {
		copy(sector[(u+1)*unit-commitID:(u+1)*unit], e.entry[8+u*commitID:])
	}
	copy(tag[:TagSize], e.entry[8+SectorSize/unit*commitID:])
	return nil
}
