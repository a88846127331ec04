// Package settings is hostagent.yaml: what an operator says about a node.
//
// [Settings] is the form. Parser, command line and the commented file that the
// packages install all read it, so that an option is there for each or for none.
package settings

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/secexec/secexec/hostagent/metrics"
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
	Metrics       string        `yaml:"metrics" doc:"Where Prometheus scrapes /metrics: 127.0.0.1:9745, or unix:/run/secexec/metrics.sock for the group; empty: nowhere. Who can connect reads the guests' names and loads."`
	MetricsRemote bool          `yaml:"metrics_remote" doc:"Let metrics be an address that others than this node reach. Nobody is asked who they are."`

	BundleRoots []string `yaml:"bundle_roots" doc:"Folders beneath which administrators' bundles lie; none: anywhere."`
	DiskRoots   []string `yaml:"disk_roots" doc:"Folders beneath which disks lie that administrators attach; none: anywhere."`

	TenantsGroup    string           `yaml:"tenants_group" doc:"Group whose members are tenants: they see and change their own guests only."`
	TenantRoots     []string         `yaml:"tenant_roots" doc:"Folders beneath which tenants' bundles lie; they must be able to read them themselves."`
	TenantGuests    int              `yaml:"tenant_guests" doc:"Guests that a tenant may have, running or not; -1: any number."`
	TenantMemoryMiB int              `yaml:"tenant_memory_mib" doc:"Memory of all of a tenant's guests together; -1: any."`
	TenantCPUs      int              `yaml:"tenant_cpus" doc:"CPUs of all of a tenant's guests together; -1: any number."`
	TenantDiskMiB   int              `yaml:"tenant_disk_mib" doc:"Size of all of a tenant's images and disks together; -1: any."`
	TenantQuotas    map[string]Quota `yaml:"tenant_quotas" doc:"Other quotas for some tenants, by user name or number: {alice: {guests: 100, memory_mib: -1}}."`

	Listen         string            `yaml:"listen" doc:"HOST:PORT on which clients with a certificate are served, by TLS 1.3; empty: none. A host's name or nothing listens on all of its addresses."`
	TLSCertificate string            `yaml:"tls_certificate" doc:"hostagent's own certificate and those up to its authority, PEM. Like the other two it is read again when it changes."`
	TLSKey         string            `yaml:"tls_key" doc:"Key of that certificate, PEM."`
	TLSClientCA    string            `yaml:"tls_client_ca" doc:"Authorities that sign clients' certificates, PEM; one for this purpose only."`
	TLSClients     map[string]string `yaml:"tls_clients" doc:"Whom clients stand for, by their certificates' common name: {ops: root, web: alice}; none: every client is an administrator."`
}

// Quota is what a tenant's guests may have together. In TenantQuotas 0 stands
// for every tenant's quota; a negative number is no limit.
type Quota struct {
	Guests    int `yaml:"guests"`
	MemoryMiB int `yaml:"memory_mib"`
	CPUs      int `yaml:"cpus"`
	DiskMiB   int `yaml:"disk_mib"`
}

// Quota is every tenant's quota.
func (s *Settings) Quota() Quota {
	return Quota{s.TenantGuests, s.TenantMemoryMiB, s.TenantCPUs, s.TenantDiskMiB}
}

// Default returns the settings of a node whose operator says nothing.
func Default() Settings {
	return Settings{
		State: "/var/lib/secexec", Runtime: "/run/secexec", Socket: "/run/secexec/hostagent.sock",
		QEMU: "qemu-system-s390x", Platform: "se", Launcher: "auto", ReadyTimeout: 2 * time.Minute,
		MemoryRatio: 1, MemoryReserve: 512,
		BundleRoots: []string{}, DiskRoots: []string{}, TenantRoots: []string{"/home", "/srv"},
		TenantGuests: 16, TenantMemoryMiB: 64 << 10, TenantCPUs: 64, TenantDiskMiB: 1 << 20, TenantQuotas: map[string]Quota{},
		TLSCertificate: "/etc/secexec/tls/cert.pem", TLSKey: "/etc/secexec/tls/key.pem", TLSClientCA: "/etc/secexec/tls/client-ca.pem", TLSClients: map[string]string{},
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
	if _, _, err := metrics.Address(s.Metrics, s.MetricsRemote); err != nil {
		return fmt.Errorf("%w: metrics: %w", ErrInvalid, err)
	}
	if s.QEMU == "" {
		return fmt.Errorf("%w: qemu: no program", ErrInvalid)
	}
	for name, list := range map[string][]string{
		"bundle_roots": s.BundleRoots, "disk_roots": s.DiskRoots, "tenant_roots": s.TenantRoots,
		"tls_certificate": {s.TLSCertificate}, "tls_key": {s.TLSKey}, "tls_client_ca": {s.TLSClientCA},
	} {
		for _, path := range list {
			if !filepath.IsAbs(path) {
				return fmt.Errorf("%w: %s: %q is not an absolute path", ErrInvalid, name, path)
			}
		}
	}
	if s.Listen != "" {
		if _, port, err := net.SplitHostPort(s.Listen); err != nil || port == "" {
			return fmt.Errorf("%w: listen: %q is not HOST:PORT", ErrInvalid, s.Listen)
		}
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
		value, err := yaml.MarshalWithOptions(v.Field(i).Interface(), yaml.Flow(true))
		if err != nil {
			panic(err) // plain values, lists and maps of them only
		}
		fmt.Fprintf(&b, "\n# %s\n#%s: %s", f.Tag.Get("doc"), f.Tag.Get("yaml"), value)
	}
	return []byte(b.String())
}
