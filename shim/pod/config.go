package pod

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// spec is as much of the OCI runtime specification's config.json as says what a
// guest gets, or what it can't have.
type spec struct {
	Process struct {
		Terminal     bool     `json:"terminal"`
		User         user     `json:"user"`
		Args         []string `json:"args"`
		Env          []string `json:"env"`
		Cwd          string   `json:"cwd"`
		Capabilities struct {
			Bounding []string `json:"bounding"`
		} `json:"capabilities"`
	} `json:"process"`
	Root struct {
		ReadOnly bool `json:"readonly"`
	} `json:"root"`
	Mounts      []mount                      `json:"mounts"`
	Hooks       map[string][]json.RawMessage `json:"hooks"`
	Annotations map[string]string            `json:"annotations"`
	Linux       struct {
		Resources  resources         `json:"resources"`
		Devices    []device          `json:"devices"`
		Namespaces []namespace       `json:"namespaces"`
		Masked     []string          `json:"maskedPaths"`
		Sysctl     map[string]string `json:"sysctl"`
		IntelRDT   anything          `json:"intelRdt"`
	} `json:"linux"`
}

type user struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"additionalGids"`
}

type mount struct {
	Destination string `json:"destination"`
	Type        string `json:"type"`
	Source      string `json:"source"`
}

type namespace struct {
	Type string `json:"type"`
	Path string `json:"path"`
}

type device struct {
	Path  string `json:"path"`
	Type  string `json:"type"`
	Major int64  `json:"major"`
	Minor int64  `json:"minor"`
}

type resources struct {
	Devices []struct {
		Allow  bool   `json:"allow"`
		Type   string `json:"type"`
		Major  *int64 `json:"major"`
		Minor  *int64 `json:"minor"`
		Access string `json:"access"`
	} `json:"devices"`
	Memory struct {
		Limit int64 `json:"limit"`
	} `json:"memory"`
	CPU struct {
		Shares uint64 `json:"shares"`
		Quota  int64  `json:"quota"`
		Period uint64 `json:"period"`
	} `json:"cpu"`
	HugePages []struct {
		Size  string `json:"pageSize"`
		Limit uint64 `json:"limit"`
	} `json:"hugepageLimits"`
	BlockIO anything                   `json:"blockIO"`
	Network anything                   `json:"network"`
	RDMA    map[string]json.RawMessage `json:"rdma"`
	Unified map[string]string          `json:"unified"`
}

// anything is a value of which only matters that it is there.
type anything struct{ json.RawMessage }

func (a anything) there() bool { return len(a.RawMessage) > 0 && string(a.RawMessage) != "null" }

// maxDepth bounds how deep values lie in each other; containerd's have 8.
const maxDepth = 32

// parse parses one JSON value in which no field is named twice: readers differ in
// which of two they take, and encoding/json takes names in any case.
func parse(config []byte) (*spec, error) {
	if len(config) > MaxConfig {
		return nil, invalid("%d bytes, at most %d", len(config), MaxConfig)
	}
	d := json.NewDecoder(bytes.NewReader(config))
	if err := walk(d, 0); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, invalid("text behind its end")
	}
	s := new(spec)
	if err := json.Unmarshal(config, s); err != nil {
		return nil, invalid("%v", err)
	}
	return s, nil
}

// walk reads one value.
func walk(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return invalid("%v", err)
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth == maxDepth {
		return invalid("more than %d values in each other", maxDepth)
	}
	seen := make(map[string]bool)
	for d.More() {
		if open == '{' {
			t, err := d.Token()
			if err != nil {
				return invalid("%v", err)
			}
			name, _ := t.(string)
			if name = strings.ToLower(name); seen[name] {
				return invalid("field %.100q is there twice", name)
			}
			seen[name] = true
		}
		if err := walk(d, depth+1); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return invalid("%v", err)
	}
	return nil
}

// namespace returns a namespace; without a type if the config has none of it.
func (s *spec) namespace(kind string) namespace {
	for _, n := range s.Linux.Namespaces {
		if n.Type == kind {
			return n
		}
	}
	return namespace{}
}
