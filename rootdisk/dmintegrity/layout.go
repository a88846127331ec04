// Package dmintegrity lays out dm-integrity devices that keep dm-crypt's tags
// (Linux, drivers/md/dm-integrity.c and Documentation/admin-guide/device-mapper/
// dm-integrity.rst), and reads their journals, without a device-mapper.
//
// A device is a superblock of 4 KiB, a journal, and areas: room for the tags of
// an area's sectors, then the sectors.
//
//	superblock │ journal │ tags 0 │ data 0, 16 MiB │ tags 1 │ data 1 …
//
// The layout is the one that dm-integrity chooses for block_size:4096,
// fix_padding and tags of 32 bytes. Nothing here is authenticated: that a sector
// and its tag belong together, and to their place, is dm-crypt's to check.
package dmintegrity

import (
	"errors"
	"fmt"
)

// Sizes in bytes, unless said otherwise.
const (
	SectorSize        = 4096  // of a sector that has a tag: dm-integrity's block
	TagSize           = 32    // HMAC-SHA-256
	InterleaveSectors = 32768 // of 512 bytes in an area; dm-integrity's default

	unit        = 512
	superblock  = 4096
	areaData    = InterleaveSectors * unit
	areaTags    = areaData / SectorSize * TagSize // fix_padding rounds it up to 4 KiB, which it is a multiple of
	mebi        = 1 << 20
	maxData     = 1 << 50
	maxJournal  = 16384 // units: 8 MiB. dm-integrity's own default goes to 64 MiB, which the kernel keeps in memory
	journalPart = 128   // of the data, as dm-integrity's default
)

// Errors.
var (
	ErrLayout = errors.New("dm-integrity device can't be laid out so")
	ErrDevice = errors.New("no valid dm-integrity device")
)

// Layout says where a device has what. All offsets count from its superblock.
type Layout struct {
	Size     int64 // bytes from the superblock to the device's end
	Provided int64 // bytes of data
	Sections int   // of the journal
}

// Plan lays out a device for at least this many bytes of data. Its size is a
// multiple of 1 MiB, so that partitions fit it, and it gives as much data as
// dm-integrity finds in that size: the kernel else writes to the superblock.
func Plan(data int64) (Layout, error) {
	if data <= 0 || data%SectorSize != 0 || data > maxData {
		return Layout{}, fmt.Errorf("%w: %d bytes of data", ErrLayout, data)
	}
	l := Layout{Sections: int(max(1, min(data/unit/journalPart, maxJournal)/sectionUnits))}
	areas := (data + areaData - 1) / areaData
	l.Size = (l.initial() + areas*areaTags + data + mebi - 1) / mebi * mebi
	l.Provided = l.provided()
	return l, nil
}

// JournalSectors is the journal's size in sectors of 512 bytes.
func (l *Layout) JournalSectors() int { return l.Sections * sectionUnits }

// initial is where the first area starts.
func (l *Layout) initial() int64 { return superblock + int64(l.JournalSectors())*unit }

// provided is what dm-integrity finds in the device's size: the most data whose
// last sector lies in it.
func (l *Layout) provided() int64 {
	room := l.Size - l.initial()
	return room/(areaTags+areaData)*areaData + max(0, room%(areaTags+areaData)-areaTags)
}

// Data returns the offset of a byte of data.
func (l *Layout) Data(at int64) int64 {
	return l.initial() + (at/areaData+1)*areaTags + at
}

// Tag returns the offset of the tag of the sector that starts at a byte of data.
// The tags of an area's sectors follow each other.
func (l *Layout) Tag(at int64) int64 {
	return l.initial() + at/areaData*(areaTags+areaData) + at%areaData/SectorSize*TagSize
}

// check refuses a layout that Plan's device could not have.
func (l *Layout) check() error {
	if l.Sections < 1 || l.Sections > maxSections || l.Size <= l.initial() || l.Provided <= 0 || l.Provided > l.provided() {
		return fmt.Errorf("%w: %d bytes of data and %d journal sections in %d bytes", ErrDevice, l.Provided, l.Sections, l.Size)
	}
	return nil
}
