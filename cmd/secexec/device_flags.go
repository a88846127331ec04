package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	hostagentv1 "github.com/secexec/secexec/proto/hostagent/v1"
)

// deviceFlags are the flags that attach disks and networks to a guest.
type deviceFlags struct{ disks, networks []string }

func (f *deviceFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.disks, "disk", nil, "attach a disk beside the bundle's: path=`FILE`[,serial=S][,format=raw|qcow2][,bus=virtio-blk|virtio-scsi][,cache=writeback|direct][,discard=ignore|unmap][,readonly]; repeatable")
	cmd.Flags().StringArrayVar(&f.networks, "network", nil, "attach a network: tap=`NAME`[,queues=N][,mac=M], or user[,publish=PORT:GUESTPORT][,mac=M] for development; repeatable")
}

// fill puts the devices into a request, with paths as hostagent needs them.
func (f *deviceFlags) fill(r *hostagentv1.CreateRequest, path func(string) (string, error)) error {
	r.Disks, r.Networks = nil, nil
	for _, text := range f.disks {
		d, err := parseDisk(text)
		if err == nil {
			d.Path, err = path(d.Path)
		}
		if err != nil {
			return usageError{fmt.Errorf("--disk %.200q: %w", text, err)}
		}
		r.Disks = append(r.Disks, d)
	}
	for _, text := range f.networks {
		n, err := parseNetwork(text)
		if err != nil {
			return usageError{fmt.Errorf("--network %.200q: %w", text, err)}
		}
		r.Networks = append(r.Networks, n)
	}
	return nil
}

// parseDisk reads a disk. What virt-install calls otherwise is understood too:
// bus scsi and virtio, cache none, readonly=on. hostagent checks the values.
func parseDisk(text string) (*hostagentv1.Disk, error) {
	d := new(hostagentv1.Disk)
	words := map[string]*string{
		"path": &d.Path, "serial": &d.Serial, "format": &d.Format, "bus": &d.Bus, "cache": &d.Cache, "discard": &d.Discard,
	}
	err := options(text, "path", func(key, value string) error {
		if key == "readonly" {
			switch value {
			case "", "on", "yes", "true":
				d.ReadOnly = true
			case "off", "no", "false":
				d.ReadOnly = false
			default:
				return fmt.Errorf("readonly is on or off, not %.40q", value)
			}
			return nil
		}
		to, ok := words[key]
		if !ok || value == "" {
			return fmt.Errorf("%.40q is none of path=, serial=, format=, bus=, cache=, discard=, readonly", key+"="+value)
		}
		*to = value
		return nil
	})
	if err != nil {
		return nil, err
	}
	if d.Path == "" {
		return nil, errors.New("it names no path")
	}
	switch d.Bus {
	case "virtio":
		d.Bus = "virtio-blk"
	case "scsi":
		d.Bus = "virtio-scsi"
	}
	if d.Cache == "none" {
		d.Cache = "direct"
	}
	return d, nil
}

// parseNetwork reads a network.
func parseNetwork(text string) (*hostagentv1.Network, error) {
	n := new(hostagentv1.Network)
	err := options(text, "kind", func(key, value string) (err error) {
		switch {
		case key == "kind" && value == "user":
			n.Kind = "user"
		case key == "tap" && value != "":
			n.Kind, n.Tap = "tap", value
		case key == "mac" && value != "":
			n.Mac = strings.ToLower(value)
		case key == "publish":
			p := new(hostagentv1.Publish)
			node, guest, _ := strings.Cut(value, ":")
			p.NodePort, err = parsePort(node)
			if err == nil {
				p.GuestPort, err = parsePort(guest)
			}
			if err != nil {
				return fmt.Errorf("publish wants a port of this node and one of the guest, such as 8443:443, not %.40q", value)
			}
			n.Publish = append(n.Publish, p)
		case key == "queues":
			var count uint64
			if count, err = strconv.ParseUint(value, 10, 16); err != nil || count == 0 {
				return fmt.Errorf("queues is a number from 1 on, not %.40q", value)
			}
			n.Queues = uint32(count)
		default:
			return fmt.Errorf("%.40q is none of user, tap=, mac=, queues=, publish=", strings.TrimPrefix(key+"="+value, "kind="))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if n.Kind == "" {
		return nil, errors.New("it names neither user nor a tap interface")
	}
	return n, nil
}

// options reads key=value pairs with commas between; two commas are one in a
// value. The first may be the value of key first alone, others a key alone. A
// key twice is refused.
func options(text, first string, set func(key, value string) error) error {
	const comma = "\x00"
	if strings.Contains(text, comma) {
		return errors.New("it holds a NUL")
	}
	seen := make(map[string]bool)
	for i, word := range strings.Split(strings.ReplaceAll(text, ",,", comma), ",") {
		key, value, pair := strings.Cut(strings.ReplaceAll(word, comma, ","), "=")
		if i == 0 && (!pair || strings.ContainsRune(key, '/')) {
			key, value = first, strings.ReplaceAll(word, comma, ",")
		}
		if seen[key] {
			return fmt.Errorf("%.40s is given twice", key)
		}
		seen[key] = true
		if err := set(key, value); err != nil {
			return err
		}
	}
	return nil
}

// diskWords and networkWords describe a guest's devices for people.
func diskWords(d *hostagentv1.Disk) string {
	words := []string{d.Path, d.Format, d.Bus, "serial number " + d.Serial, "cache " + d.Cache, "discard " + d.Discard}
	if d.ReadOnly {
		words = append(words, "read-only")
	}
	return strings.Join(words, ", ")
}

func networkWords(n *hostagentv1.Network) string {
	if n.Kind == "tap" {
		return fmt.Sprintf("tap interface %s, %s, %d queues", n.Tap, n.Mac, n.Queues)
	}
	if n.Kind == "handed" {
		return fmt.Sprintf("tap interface handed over at %s, %s, %d queues", n.Socket, n.Mac, n.Queues)
	}
	text := n.Kind + ", " + n.Mac
	for _, p := range n.Publish {
		text += fmt.Sprintf(", 127.0.0.1:%d is its port %d", p.NodePort, p.GuestPort)
	}
	return text
}

func parsePort(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

func disksJSON(disks []*hostagentv1.Disk) []map[string]any {
	out := make([]map[string]any, 0, len(disks))
	for _, d := range disks {
		out = append(out, map[string]any{
			"path": d.Path, "serial": d.Serial, "read_only": d.ReadOnly, "format": d.Format, "bus": d.Bus, "cache": d.Cache, "discard": d.Discard,
		})
	}
	return out
}

func networksJSON(networks []*hostagentv1.Network) []map[string]any {
	out := make([]map[string]any, 0, len(networks))
	for _, n := range networks {
		m := map[string]any{"kind": n.Kind, "mac": n.Mac, "queues": n.Queues}
		if n.Tap != "" {
			m["tap"] = n.Tap
		}
		if n.Socket != "" {
			m["socket"] = n.Socket
		}
		for _, p := range n.Publish {
			published, _ := m["publish"].([]map[string]any)
			m["publish"] = append(published, map[string]any{"node_port": p.NodePort, "guest_port": p.GuestPort})
		}
		out = append(out, m)
	}
	return out
}
