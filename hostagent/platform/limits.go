package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Limits are what a node's ultravisor allows, as Linux shows it in
// /sys/firmware/uv/query (arch/s390/kernel/uv.c). A zero field is unknown and
// bounds nothing.
type Limits struct {
	MaxGuests  int    // max_guests: secure guests at one time
	MaxCPUs    int    // max_cpus: of one guest
	MaxAddress uint64 // max_address: bytes of one guest's memory

	HeaderVersions uint64 // supp_se_hdr_ver: the most significant bit is version 0x100, the next 0x200
	HeaderFlags    uint64 // supp_se_hdr_pcf: plain-text control flags, bits as in the SE header

	// Dump tells whether protected guests can be dumped: the facilities file has
	// all four calls that KVM wants for KVM_CAP_S390_PROTECTED_DUMP.
	Dump bool
}

// uvQuery is the folder of the ultravisor's answers.
const uvQuery = uvDir + "/query"

// dumpCalls are the bits in facilities of the ultravisor's calls that a dump
// takes: initialise, storage state, CPU, complete.
var dumpCalls = []int{24, 25, 26, 27}

// Limits implements [Platform].
func (p SE) Limits() (Limits, error) {
	var l Limits
	var maxGuests, maxCPUs uint64
	for _, f := range []struct {
		name string
		base int
		to   *uint64
	}{
		{"max_guests", 10, &maxGuests}, {"max_cpus", 10, &maxCPUs}, {"max_address", 16, &l.MaxAddress},
		{"supp_se_hdr_ver", 16, &l.HeaderVersions}, {"supp_se_hdr_pcf", 16, &l.HeaderFlags},
	} {
		words, err := p.query(f.name, f.base)
		if err != nil {
			return Limits{}, err
		}
		if len(words) > 0 {
			*f.to = words[0]
		}
	}
	calls, err := p.query("facilities", 16)
	if err != nil {
		return Limits{}, err
	}
	l.MaxGuests, l.MaxCPUs = int(min(maxGuests, 1<<31)), int(min(maxCPUs, 1<<31))
	l.Dump = !slices.ContainsFunc(dumpCalls, func(bit int) bool { return len(calls) == 0 || calls[0]>>(63-bit)&1 == 0 })
	return l, nil
}

// query reads one of the ultravisor's answers: a number per line. One that this
// kernel does not show yet is empty.
func (p SE) query(name string, base int) ([]uint64, error) {
	text, err := readFile(p.root(), uvQuery+"/"+name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	words, err := parseWords(string(text), base)
	if err != nil {
		return nil, fmt.Errorf("read /%s/%s: %w", uvQuery, name, err)
	}
	return words, nil
}

// parseWords reads 1 to 4 numbers of 64 bits, each on a line of its own.
func parseWords(text string, base int) ([]uint64, error) {
	var words []uint64
	for line := range strings.Lines(text) {
		n, err := strconv.ParseUint(strings.TrimSuffix(line, "\n"), base, 64)
		if err != nil || !strings.HasSuffix(line, "\n") || len(words) == 4 {
			return nil, fmt.Errorf("%.80q is not 1 to 4 lines of a number each", text)
		}
		words = append(words, n)
	}
	if len(words) == 0 {
		return nil, errors.New("it is empty")
	}
	return words, nil
}

// Limits implements [Platform]: the stand-in has none.
func (Emulated) Limits() (Limits, error) { return Limits{}, nil }

// Has tells whether the ultravisor takes SE headers of a version, such as
// 0x100, and with these control flags. It does not know more than the node
// tells.
func (l Limits) Has(version uint32, flags uint64) (versionOK, flagsOK bool) {
	n := version/0x100 - 1
	versionOK = l.HeaderVersions == 0 || n < 64 && l.HeaderVersions>>(63-n)&1 == 1
	return versionOK, l.HeaderFlags == 0 || flags&^l.HeaderFlags == 0
}
