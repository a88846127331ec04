// Package settings is hostagent.yaml: what an operator says about a node.
//
// [Settings] is the form. Parser, command line and the commented file that the
// packages install all read it, so that an option is there for each or for none.
package settings

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// File is where the settings are unless --config says otherwise.
const File = "/etc/secexec/hostagent.yaml"

// MaxSize is how large the file may be, in bytes.
const MaxSize = 64 << 10

// ErrInvalid is wrapped by every error about the file's text.
var ErrInvalid = errors.New("invalid settings")

// Settings are hostagent's options. The tag doc is an option's comment in the
// file that packages install.
type Settings struct {
	State         string        `yaml:"state" doc:"Folder of guests and their disks."`
	Runtime       string        `yaml:"runtime" doc:"Folder of sockets, best on tmpfs."`
	Socket        string        `yaml:"socket" doc:"Path of the socket to serve; under systemd that of hostagent.socket is used."`
	Group         string        `yaml:"group" doc:"Group whose members administer, beside root: they see and change all guests."`
	QEMU          string        `yaml:"qemu" doc:"QEMU program."`
	Platform      string        `yaml:"platform" doc:"se, or emulated, which protects nothing."`
	EmulatedHost  string        `yaml:"emulated_host" doc:"Folder of an emulated host, made by secexec emulate init."`
	ForceEmulated bool          `yaml:"force_emulated" doc:"Emulate even on a node that has Secure Execution."`
	Launcher      string        `yaml:"launcher" doc:"How guests' processes are started: systemd (a unit each, confined and bounded), direct (children of hostagent) or auto: systemd where it started hostagent."`
	ReadyTimeout  time.Duration `yaml:"ready_timeout" doc:"How long a guest may take to become ready."`
	MemoryRatio   float64       `yaml:"memory_ratio" doc:"Guests that run may have so much memory together, as a multiple of the node's less the reserve; 0: hostagent does not count. Above 1 the node may swap."`
	MemoryReserve int           `yaml:"memory_reserve_mib" doc:"MiB of the node's memory that guests do not get: for the system, QEMU and the ultravisor."`
}

// Default returns the settings of a node whose operator says nothing.
func Default() Settings {
	return Settings{
		State: "/var/lib/secexec", Runtime: "/run/secexec", Socket: "/run/secexec/hostagent.sock",
		QEMU: "qemu-system-s390x", Platform: "se", Launcher: "auto", ReadyTimeout: 2 * time.Minute,
		MemoryRatio: 1, MemoryReserve: 512,
	}
}

// Load reads a settings file over the defaults. Unknown and doubled keys are
// errors.
func Load(path string) (Settings, error) {
	s := Default()
	f, err := os.Open(path)
	if err != nil {
		return s, fmt.Errorf("read settings: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return s, fmt.Errorf("read settings: %w", err)
	}
	if err := parse(text, &s); err != nil {
		return s, fmt.Errorf("read settings %s: %w", path, err)
	}
	return s, nil
}

// parse reads a settings text over what s holds.
func parse(text []byte, s *Settings) error {
	if len(text) > MaxSize {
		return fmt.Errorf("%w: more than %d bytes", ErrInvalid, MaxSize)
	}
	given := *s
	if err := yaml.UnmarshalWithOptions(text, &given, yaml.Strict()); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %s", ErrInvalid, yaml.FormatError(err, false, false))
	}
	if !reflect.ValueOf(given).IsZero() { // which a text without any option gives
		*s = given
	}
	return s.Check()
}

// Check reports the first option that no node could have.
func (s *Settings) Check() error {
	for name, path := range map[string]string{"state": s.State, "runtime": s.Runtime, "socket": s.Socket, "emulated_host": s.EmulatedHost} {
		if !filepath.IsAbs(path) && (path != "" || name != "emulated_host") {
			return fmt.Errorf("%w: %s: %q is not an absolute path", ErrInvalid, name, path)
		}
	}
	if s.QEMU == "" {
		return fmt.Errorf("%w: qemu: no program", ErrInvalid)
	}
	if !slices.Contains([]string{"auto", "systemd", "direct"}, s.Launcher) {
		return fmt.Errorf("%w: launcher: %q is none of auto, systemd and direct", ErrInvalid, s.Launcher)
	}
	if s.ReadyTimeout <= 0 {
		return fmt.Errorf("%w: ready_timeout: %s is not a time to wait", ErrInvalid, s.ReadyTimeout)
	}
	if !(s.MemoryRatio >= 0 && s.MemoryRatio <= 100) {
		return fmt.Errorf("%w: memory_ratio: %v is not in 0..100", ErrInvalid, s.MemoryRatio)
	}
	if s.MemoryReserve < 0 {
		return fmt.Errorf("%w: memory_reserve_mib: %d is less than nothing", ErrInvalid, s.MemoryReserve)
	}
	return nil
}

// Template returns the file that packages install: every option with its
// comment and its default, commented out.
func Template() []byte {
	var b strings.Builder
	b.WriteString("# hostagent's settings. What is commented out is the default.\n")
	v := reflect.ValueOf(Default())
	for i := range v.NumField() {
		f := v.Type().Field(i)
		value, err := yaml.Marshal(v.Field(i).Interface())
		if err != nil {
			panic(err) // strings, numbers and truth values only
		}
		fmt.Fprintf(&b, "\n# %s\n#%s: %s", f.Tag.Get("doc"), f.Tag.Get("yaml"), value)
	}
	return []byte(b.String())
}
