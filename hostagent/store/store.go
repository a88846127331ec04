// Package store keeps what hostagent must not lose: one JSON file per guest,
// replaced atomically and checksummed, in the guest's folder.
//
//	STATE/lock                     held by the one hostagent that uses STATE
//	STATE/guests/NAME/guest.json   this package's
//	STATE/guests/NAME/…            the guest's copy of the bundle, its logs
package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/form"
	"github.com/secexec/secexec/hostagent/launch"
)

// Version is the version of guest.json that is written. Version 1, which lacks
// what came later, is read too.
const Version = 2

// lockPatience is how long a lock may be held by what an ended hostagent left.
const lockPatience = 2 * time.Second

// Names of files.
const (
	guestsDir  = "guests"
	recordFile = "guest.json"
	lockFile   = "lock"
	maxRecord  = 256 << 10
)

// Errors that callers branch on.
var (
	ErrLocked  = errors.New("state folder is in use by another hostagent")
	ErrDamaged = errors.New("guest's record is damaged")
	ErrNewer   = errors.New("guest's record is of a newer version")
	ErrName    = errors.New("invalid guest name")
)

// Guest is all that is kept of a guest.
type Guest struct {
	Name      string           `json:"name"`
	UUID      string           `json:"uuid"`
	State     string           `json:"state"`
	ImageID   string           `json:"image_id"`
	Identity  string           `json:"identity"`
	Image     string           `json:"image"`              // file in the guest's folder
	Boot      string           `json:"boot,omitempty"`     // as in the bundle's manifest
	Loadparm  string           `json:"loadparm,omitempty"` // entry of the disk's boot menu
	Disks     []Disk           `json:"disks"`
	MemoryMiB int              `json:"memory_mib"`
	CPUs      int              `json:"cpus"`
	Request   string           `json:"request,omitempty"` // id of the call that created it
	Created   time.Time        `json:"created"`
	Started   time.Time        `json:"started"`           // last start, zero: never
	Process   *launch.Identity `json:"process,omitempty"` // QEMU's while it runs
	Stages    []Stage          `json:"stages,omitempty"`
	Failure   *Failure         `json:"failure,omitempty"`

	// Since version 2.

	Owner     uint32      `json:"owner,omitempty"`         // uid of the tenant that created it
	DiskBytes int64       `json:"disk_bytes,omitempty"`    // of image and disks, as copied from the bundle
	Restart   *Restart    `json:"restart,omitempty"`       // nil: never
	Restarts  []time.Time `json:"restarts,omitempty"`      // by that policy, within its window
	Autostart bool        `json:"autostart,omitempty"`     // when the node boots
	Order     uint32      `json:"order,omitempty"`         // of those, lowest first
	StartedBy string      `json:"start_request,omitempty"` // id of the call that started it last
	Networks  []Network   `json:"networks,omitempty"`
	Resources *Resources  `json:"resources,omitempty"` // nil: the node's defaults
	Move      *Move       `json:"move,omitempty"`      // nil: the guest is here and nowhere else
	RestartAt time.Time   `json:"restart_at,omitzero"` // when a waiting guest starts again, zero: in its turn after the node's boot
	BootID    string      `json:"boot_id,omitempty"`   // of the node's boot in which this was written
	Exit      *uint8      `json:"exit,omitempty"`      // how the guest says that its one program ended, of the last start
	CID       uint32      `json:"cid,omitempty"`       // of its vsock device while Process runs, 0: it has none
	Unhealthy bool        `json:"unhealthy,omitempty"` // its workload missed its watchdog's time, it says
}

// Restart is what happens when a guest ends without being told to.
type Restart struct {
	Policy  string `json:"policy"` // on-failure, always
	Limit   uint32 `json:"limit"`  // restarts within the window
	WindowS uint32 `json:"window_s"`
}

// Network is a virtio-net device of a guest.
type Network struct {
	Kind   string `json:"kind"` // user, tap, handed
	Tap    string `json:"tap,omitempty"`
	Socket string `json:"socket,omitempty"` // for kind handed
	MAC    string `json:"mac"`
	Queues uint32 `json:"queues,omitempty"` // pairs, 0: 1

	Publish []Publish `json:"publish,omitempty"` // for kind user
}

// Publish leads from a TCP port of the node's loopback address to one of the
// guest's.
type Publish struct {
	Node  uint32 `json:"node"`
	Guest uint32 `json:"guest"`
}

// Resources bound what a guest takes from its node; 0 is systemd's default.
type Resources struct {
	CPUWeight  uint32 `json:"cpu_weight,omitempty"`
	CPUPercent uint32 `json:"cpu_percent,omitempty"` // of one CPU
	IOWeight   uint32 `json:"io_weight,omitempty"`
}

// Move is a guest's place in an offline migration; package move has its phases
// and says what each allows. It is replaced, never changed in place.
type Move struct {
	Token string `json:"token"`          // source: the key, a secret up to Give; target: the id, its SHA-256
	Phase string `json:"phase"`          // leaving, given, gone (source); arriving, arrived, taken (target)
	Peer  string `json:"peer"`           // the other node, for people
	Copy  string `json:"copy,omitempty"` // target's copy; source: the one it was given to
}

// Disk is a disk of a guest: a file in its folder, or with a Path one that the
// operator attached.
type Disk struct {
	File     string `json:"file,omitempty"`
	Path     string `json:"path,omitempty"`
	Serial   string `json:"serial"`
	ReadOnly bool   `json:"read_only"`
	Format   string `json:"format,omitempty"`  // raw, qcow2; "": raw
	Bus      string `json:"bus,omitempty"`     // virtio-blk, virtio-scsi; "": virtio-blk
	Cache    string `json:"cache,omitempty"`   // writeback, direct; "": writeback
	Discard  string `json:"discard,omitempty"` // ignore, unmap; "": ignore
}

// Stage is a stage of the last start, in milliseconds since it.
type Stage struct {
	Name   string `json:"name"`
	Millis int64  `json:"millis"`
	By     string `json:"by"` // ByHost, ByGuest
}

// Who tells that a stage was passed.
const (
	ByHost  = "host"
	ByGuest = "guest" // a hint: whoever controls the guest's kernel can write it
)

// Failure is why a guest failed.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

// envelope is the file's form. The checksum covers the guest's bytes as they
// stand in the file.
type envelope struct {
	Version int             `json:"version"`
	SHA256  string          `json:"sha256"`
	Guest   json.RawMessage `json:"guest"`
}

// Store is a state folder. Its methods may be called from several goroutines,
// for one guest from one at a time.
type Store struct {
	dir   string
	lock  *os.File
	files files
}

// Open makes or opens a state folder and locks it.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, guestsDir), 0o700); err != nil {
		return nil, fmt.Errorf("open state folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open state folder: %w", err)
	}
	// A hostagent that was killed while it started a process: that process has the
	// lock until it becomes another program.
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for end := time.Now().Add(lockPatience); err != nil && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock %s: %w: stop it, or give this one another --state", dir, ErrLocked)
	}
	s := &Store{dir: dir, lock: lock, files: disk{}}
	// An earlier hostagent may have been killed before it made a new guest's
	// folder last.
	if err := errors.Join(s.flush(dir), s.flush(filepath.Join(dir, guestsDir))); err != nil {
		lock.Close()
		return nil, fmt.Errorf("open state folder: %w", err)
	}
	return s, nil
}

// Close unlocks the folder.
func (s *Store) Close() error { return s.lock.Close() }

// CheckName refuses what may not name a guest, and so a folder.
func CheckName(name string) error {
	if !form.Name.MatchString(name) {
		return fmt.Errorf("%w %.80q: 1 to 63 characters of a-z, 0-9 and '-', the first one no '-'", ErrName, name)
	}
	return nil
}

// Dir is a guest's folder.
func (s *Store) Dir(name string) string { return filepath.Join(s.dir, guestsDir, name) }

// Save replaces a guest's record. When it returns nil the record survives a
// loss of power; when not, the old one does or, if only the last flush failed,
// either.
func (s *Store) Save(g *Guest) error {
	text, err := marshal(g)
	if err != nil {
		return fmt.Errorf("save guest %s: %w", g.Name, err)
	}
	dir := s.Dir(g.Name)
	_, err = os.Lstat(filepath.Join(dir, recordFile))
	// The first record makes the guest: its parts must be there before, and its
	// folder afterwards.
	if errors.Is(err, os.ErrNotExist) {
		err = s.flush(dir)
		if err == nil {
			err = s.replace(dir, recordFile, text)
		}
		if err == nil {
			err = s.flush(filepath.Dir(dir))
		}
	} else if err == nil {
		err = s.replace(dir, recordFile, text)
	}
	if err != nil {
		return fmt.Errorf("save guest %s: %w", g.Name, err)
	}
	return nil
}

// Load reads all guests. A folder without a record is what a Create left that
// did not finish: it is removed. A damaged record is set aside, a newer one left
// alone; both are reported and the others go on.
func (s *Store) Load() (guests []*Guest, problems []error, err error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, guestsDir))
	if err != nil {
		return nil, nil, fmt.Errorf("read state folder: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if CheckName(name) != nil || !e.IsDir() {
			continue
		}
		path := filepath.Join(s.Dir(name), recordFile)
		g, err := read(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			err = s.clean(name)
		case errors.Is(err, ErrDamaged):
			aside := path + ".damaged"
			err = errors.Join(fmt.Errorf("guest %s: %w: set aside as %s", name, err, aside), os.Rename(path, aside))
		case err != nil:
			err = fmt.Errorf("guest %s: %w", name, err)
		case g.Name != name:
			err = fmt.Errorf("guest %s: %w: it is of %s", name, ErrDamaged, g.Name)
		default:
			guests = append(guests, g)
		}
		if err != nil {
			problems = append(problems, err)
		}
	}
	return guests, problems, nil
}

// clean removes an unfinished guest's folder, but none with a record set aside.
func (s *Store) clean(name string) error {
	if _, err := os.Stat(filepath.Join(s.Dir(name), recordFile+".damaged")); err == nil {
		return nil // reported when it was set aside
	}
	return os.RemoveAll(s.Dir(name))
}

// Delete removes a guest's folder. The record goes first, and for good: a folder
// without one is removed by the next Load, but a record without its disks would
// be a guest that can't start.
func (s *Store) Delete(name string) error {
	dir := s.Dir(name)
	err := s.files.remove(filepath.Join(dir, recordFile))
	switch {
	case err == nil:
		err = s.flush(dir)
	case errors.Is(err, os.ErrNotExist):
		err = nil
	}
	if err == nil {
		err = s.files.removeAll(dir)
	}
	if err != nil {
		return fmt.Errorf("delete guest %s: %w", name, err)
	}
	return nil
}

// Reserved tells whether a file of a guest's folder can't be a part of its
// bundle: a disk of this name would let the guest write what hostagent reads.
func Reserved(file string) bool {
	return strings.HasPrefix(file, recordFile) || strings.HasSuffix(file, ".log") || strings.HasSuffix(file, ".log.1")
}

// checkFiles refuses a record that reaches out of the guest's folder.
func checkFiles(g *Guest) error {
	files := []string{g.Image}
	for _, d := range g.Disks {
		files = append(files, d.File)
	}
	for _, file := range files {
		if file != "" && (file != filepath.Base(file) || file == "." || file == ".." || Reserved(file)) {
			return fmt.Errorf("%w: file %.80q", ErrDamaged, file)
		}
	}
	return nil
}

func marshal(g *Guest) ([]byte, error) {
	guest, err := json.Marshal(g)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(guest)
	text, err := json.Marshal(envelope{Version, hex.EncodeToString(sum[:]), guest})
	if err != nil {
		return nil, err
	}
	if len(text) >= maxRecord {
		return nil, fmt.Errorf("record of %d bytes, at most %d", len(text), maxRecord)
	}
	return append(text, '\n'), nil
}

func read(path string) (*Guest, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, err
	}
	return unmarshal(text)
}

// unmarshal parses a record strictly, once its version and checksum are known
// to be right.
func unmarshal(text []byte) (*Guest, error) {
	if len(text) > maxRecord {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrDamaged, maxRecord)
	}
	var e envelope
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if e.Version > Version {
		return nil, fmt.Errorf("%w %d, this hostagent knows %d: it is left alone", ErrNewer, e.Version, Version)
	}
	sum := sha256.Sum256(e.Guest)
	if e.Version < 1 || e.SHA256 != hex.EncodeToString(sum[:]) {
		return nil, fmt.Errorf("%w: checksum", ErrDamaged)
	}
	d := json.NewDecoder(bytes.NewReader(e.Guest))
	d.DisallowUnknownFields()
	g := new(Guest)
	if err := d.Decode(g); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := errors.Join(CheckName(g.Name), checkFiles(g)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return g, nil
}
