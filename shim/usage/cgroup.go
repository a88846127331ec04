// Package usage says what a guest takes in the form that containerd's clients
// know: cgroups' metrics of version 2, on every node. Where QEMU runs in a unit
// of its own they are that cgroup's, and otherwise what hostagent counts of the
// process.
package usage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxFile bounds the small files that are read.
const maxFile = 64 << 10

// ErrForm says that a file of the kernel has another form than it had.
var ErrForm = errors.New("file has another form")

// cgroupOf reads /proc/PID/cgroup and returns the cgroup of version 2 if it is a
// unit's, such as system.slice/secexec.slice/secexec-web.service.
func cgroupOf(text []byte, unit string) (name string, ok bool) {
	for line := range bytes.Lines(text) {
		if p, found := bytes.CutPrefix(bytes.TrimSuffix(line, []byte("\n")), []byte("0::/")); found {
			name = path.Clean(string(p))
			return name, unit != "" && path.Base(name) == unit && fs.ValidPath(name)
		}
	}
	return "", false
}

// readCgroup reads the metrics of a cgroup in a tree of version 2. Files of
// controllers that are not there are left out.
func readCgroup(tree fs.FS, name string) (*stats.Metrics, error) {
	m := &stats.Metrics{Pids: new(stats.PidsStat), CPU: new(stats.CPUStat), Memory: new(stats.MemoryStat), MemoryEvents: new(stats.MemoryEvents), Io: new(stats.IOStat)}
	var failed error
	each := func(file string, parse func(text []byte) error) {
		text, err := readFile(tree, path.Join(name, file))
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err == nil {
			err = parse(text)
		}
		if err != nil && failed == nil {
			failed = fmt.Errorf("read %s of cgroup %s: %w", file, name, err)
		}
	}
	into := func(to proto.Message) func([]byte) error {
		return func(text []byte) error { return fill(to, text) }
	}
	each("cpu.stat", into(m.CPU))
	each("memory.stat", into(m.Memory))
	each("memory.events", into(m.MemoryEvents))
	each("io.stat", func(text []byte) (err error) {
		m.Io.Usage, err = parseIO(text)
		return err
	})
	for file, to := range map[string]*uint64{
		"memory.current": &m.Memory.Usage, "memory.max": &m.Memory.UsageLimit, "memory.peak": &m.Memory.MaxUsage,
		"memory.swap.current": &m.Memory.SwapUsage, "memory.swap.max": &m.Memory.SwapLimit, "memory.swap.peak": &m.Memory.SwapMaxUsage,
		"pids.current": &m.Pids.Current, "pids.max": &m.Pids.Limit,
	} {
		each(file, func(text []byte) (err error) {
			*to, err = parseNumber(text)
			return err
		})
	}
	return m, failed
}

func readFile(tree fs.FS, name string) ([]byte, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text := make([]byte, maxFile)
	n := 0
	for n < len(text) {
		read, err := f.Read(text[n:])
		n += read
		if err != nil {
			return text[:n], nil // the end, or a cgroup that is going: what there is must parse
		}
	}
	return nil, fmt.Errorf("%w: more than %d bytes", ErrForm, maxFile)
}

// parseNumber reads a file with one number; "max" is no limit.
func parseNumber(text []byte) (uint64, error) {
	s := strings.TrimSpace(string(text))
	if s == "max" {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %.50q is no number", ErrForm, s)
	}
	return n, nil
}

// fill reads lines of a key and a number into the fields that are called like
// the keys. What has no field is newer than the message.
func fill(to proto.Message, text []byte) error {
	for line := range strings.Lines(string(text)) {
		key, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !found {
			return fmt.Errorf("%w: line %.50q", ErrForm, line)
		}
		if err := set(to, key, value); err != nil {
			return err
		}
	}
	return nil
}

func set(to proto.Message, key, value string) error {
	n, err := parseNumber([]byte(value))
	if err != nil {
		return err
	}
	m := to.ProtoReflect()
	if f := m.Descriptor().Fields().ByName(protoreflect.Name(key)); f != nil && f.Kind() == protoreflect.Uint64Kind && !f.IsList() {
		m.Set(f, protoreflect.ValueOfUint64(n))
	}
	return nil
}

// parseIO reads io.stat: a line for each device, such as 8:0 rbytes=1 wbytes=2.
func parseIO(text []byte) (entries []*stats.IOEntry, err error) {
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			return nil, fmt.Errorf("%w: empty line", ErrForm)
		}
		major, minor, found := strings.Cut(fields[0], ":")
		e := new(stats.IOEntry)
		if e.Major, err = strconv.ParseUint(major, 10, 32); err == nil && found {
			e.Minor, err = strconv.ParseUint(minor, 10, 32)
		}
		if err != nil || !found {
			return nil, fmt.Errorf("%w: device %.50q", ErrForm, fields[0])
		}
		for _, f := range fields[1:] {
			key, value, found := strings.Cut(f, "=")
			if !found {
				return nil, fmt.Errorf("%w: %.50q", ErrForm, f)
			}
			if err := set(e, key, value); err != nil {
				return nil, err
			}
		}
		entries = append(entries, e)
	}
	return entries, nil
}
