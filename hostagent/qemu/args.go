package qemu

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Args returns the argument vector, argv[0] included. It is the same for the
// same Config, so it can be compared, logged and stored. It names paths, and
// descriptors in their place after [Open].
//
// Whatever QEMU 7.2 takes as JSON is given as JSON, where a comma or an equals
// sign in a path means nothing. -name, -chardev, -kernel and -machine are the
// exceptions; see escape.
func Args(c *Config) ([]string, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	argv := []string{c.Binary}
	for _, part := range []func(*Config) []string{
		identity, defaults, descriptors, machine, memory, processors, kernel,
		monitor, debugger, console, serial, vsockDevice, ioThreads, scsi, disks, networks, confidential, sandbox,
	} {
		argv = append(argv, part(c)...)
	}
	return argv, nil
}

// object is a JSON object whose members keep the order they are written in: a
// golden file reads better with the driver first.
type object []member

type member struct {
	name  string
	value any
}

func (o object) String() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		var text strings.Builder
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		if s, ok := m.value.(fmt.Stringer); ok {
			text.WriteString(s.String())
		} else if err := e.Encode(m.value); err != nil {
			panic(err) // strings, numbers and truth values only
		}
		fmt.Fprintf(&b, "%q:%s", m.name, strings.TrimSuffix(text.String(), "\n"))
	}
	b.WriteByte('}')
	return b.String()
}

// array is a JSON array of objects.
type array []object

func (a array) String() string {
	var texts []string
	for _, o := range a {
		texts = append(texts, o.String())
	}
	return "[" + strings.Join(texts, ",") + "]"
}

// virtio is a virtio device with what every one of them has: a fixed place on
// the channel subsystem, so that the same configuration always gives the same
// machine, and iommu_platform=on.
func virtio(driver, id string, devno int, more ...member) []string {
	o := object{{"driver", driver}, {"id", id}, {"devno", fmt.Sprintf("fe.0.%04x", devno)}, {"iommu_platform", true}}
	return device(append(o, more...))
}

func device(o object) []string { return []string{"-device", o.String()} }

// escape makes a path safe inside a comma-separated option: QEMU reads ",," as
// a comma.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// Device numbers on channel subsystem fe. A guest names its devices after them,
// so they stay what they are. Disks come last, as many as there are.
const (
	DevnoSerial = 0x0001
	DevnoSCSI   = 0x0002
	DevnoVsock  = 0x0003
	DevnoNets   = 0x0010 // the first network's
	DevnoDisks  = 0x0100 // the first disk's, if it is on virtio-blk
)
