package devmapper

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Integrity is a dm-integrity target that keeps the tags of the dm-crypt device
// above it and checks nothing itself. It takes the disk from Offset on; what it
// does with it depends on the superblock there, so Verify compares.
type Integrity struct {
	Major, Minor      uint32 // of the disk
	Offset            uint64 // bytes from its start to the superblock
	Provided          uint64 // bytes of data
	TagSize           int    // bytes
	JournalSectors    uint32 // of 512 bytes
	InterleaveSectors uint32 // of 512 bytes
	SectorSize        uint64 // that has a tag, in bytes
}

// layout are the options that say where on the disk what lies.
func (i Integrity) layout() []string {
	return []string{
		fmt.Sprintf("block_size:%d", i.SectorSize), fmt.Sprintf("interleave_sectors:%d", i.InterleaveSectors),
		fmt.Sprintf("journal_sectors:%d", i.JournalSectors), "fix_padding",
	}
}

// direct are the parameters before the options. Mode J: data and tags go through
// the journal, so that a crash leaves no sector with another's tag.
func (i Integrity) direct() string {
	return fmt.Sprintf("%d:%d %d %d J", i.Major, i.Minor, i.Offset/sectorSize, i.TagSize)
}

// Table implements Target (Linux, Documentation/admin-guide/device-mapper/
// dm-integrity.rst). Where there is a superblock the kernel obeys that for all of
// the layout but the size of tags and sectors.
func (i Integrity) Table() (kind, params string, sectors uint64, err error) {
	if i.Offset%sectorSize != 0 || i.SectorSize == 0 || i.Provided%i.SectorSize != 0 || i.Provided == 0 {
		return "", "", 0, fmt.Errorf("%w: %d bytes of data behind %d", ErrTable, i.Provided, i.Offset)
	}
	options := i.layout()
	return "integrity", fmt.Sprintf("%s %d %s", i.direct(), len(options), strings.Join(options, " ")), i.Provided / sectorSize, nil
}

// harmless are options that the kernel tells besides and that say nothing about
// the disk.
var harmless = []string{"buffer_sectors:", "journal_watermark:", "commit_time:"}

// Verify implements Verifier. The table must hold the layout that was sealed and
// no option that is not known; the status must give as much data, or more on a
// larger disk.
func (i Integrity) Verify(table, status string) error {
	words := strings.Fields(table)
	want := i.layout()
	if len(words) < 5 || strings.Join(words[:4], " ") != i.direct() {
		return fmt.Errorf("%w: %.80q", ErrDiffers, table)
	}
	for _, w := range words[5:] {
		at := slices.Index(want, w)
		switch {
		case at >= 0:
			want = slices.Delete(want, at, at+1)
		case slices.ContainsFunc(harmless, func(prefix string) bool { return strings.HasPrefix(w, prefix) }):
		default:
			return fmt.Errorf("%w: option %.40q", ErrDiffers, w)
		}
	}
	state := strings.Fields(status) // mismatches, sectors of data, how far tags were recalculated
	if len(want) > 0 || len(state) != 3 || state[2] != "-" {
		return fmt.Errorf("%w: %.200q %.80q", ErrDiffers, table, status)
	}
	if provided, err := strconv.ParseUint(state[1], 10, 64); err != nil || provided < i.Provided/sectorSize {
		return fmt.Errorf("%w: %.200q %.80q", ErrDiffers, table, status)
	}
	return nil
}
