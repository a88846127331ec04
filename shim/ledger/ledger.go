// Package ledger writes down which guests belong to containerd's tasks, so that
// none outlives its task whatever dies in between.
//
// A record is made before hostagent is asked for the guest and removed after
// hostagent has deleted it. In between it says what to do: a record whose task
// has no folder any more (the node was booted, say), or that is marked as
// abandoned (containerd deleted the task while hostagent was away), is a debt,
// which package task's Collect pays.
package ledger

import (
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

	"github.com/secexec/secexec/form"
)

// Dir is where records lie unless told otherwise. It must outlast a boot of the
// node, as hostagent's guests do.
const Dir = "/var/lib/containerd-shim-secexec"

// maxRecord bounds a record's text.
const maxRecord = 64 << 10

// Errors.
var (
	ErrNone    = errors.New("no such record")
	ErrInvalid = errors.New("invalid record")
)

// Record is what must outlast the shim.
type Record struct {
	Namespace string `json:"namespace"`       // containerd's
	ID        string `json:"id"`              // the task's
	Guest     string `json:"guest"`           // its name for hostagent
	Folder    string `json:"folder"`          // the task's bundle folder, which containerd removes
	NetNS     string `json:"netns,omitempty"` // network namespace that the guest is joined to
	Pid       uint32 `json:"pid,omitempty"`
	Abandoned bool   `json:"abandoned,omitempty"` // the task is deleted, the guest not yet
	Exit      *Exit  `json:"exit,omitempty"`      // written once
}

// Exit is how a task ended.
type Exit struct {
	Status uint32    `json:"status"`
	At     time.Time `json:"at"`
}

// GuestPrefix begins the names of all guests that are containerd's.
const GuestPrefix = "c-"

// GuestName makes the guest's name of a task: as much of its id as is allowed,
// and a digest, for ids that differ elsewhere.
func GuestName(namespace, id string) string {
	sum := sha256.Sum256([]byte(namespace + "/" + id))
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, id)
	return GuestPrefix + clean[:min(len(clean), 40)] + "-" + hex.EncodeToString(sum[:5])
}

// Ledger is a folder of records.
type Ledger struct{ dir string }

// Open makes the folder if there is none.
func Open(dir string) (*Ledger, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	return &Ledger{dir}, nil
}

func (l *Ledger) path(guest string) string { return filepath.Join(l.dir, guest+".json") }

// Write writes a record, so that it is there after a crash of the node.
func (l *Ledger) Write(r *Record) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write record of task %s: %w", r.ID, err)
		}
	}()
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(l.dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails when it was renamed
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), l.path(r.Guest)); err != nil {
		return err
	}
	return l.sync()
}

// Read reads a guest's record, or ErrNone.
func (l *Ledger) Read(guest string) (*Record, error) {
	r, err := read(l.path(guest))
	if err != nil {
		return nil, fmt.Errorf("read record of guest %s: %w", guest, err)
	}
	if r.Guest != guest {
		return nil, fmt.Errorf("read record of guest %s: %w: it names %.100q", guest, ErrInvalid, r.Guest)
	}
	return r, nil
}

func read(path string) (*Record, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNone
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, err
	}
	return parse(text)
}

// parse reads a record's text.
func parse(text []byte) (*Record, error) {
	if len(text) > maxRecord {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrInvalid, maxRecord)
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	r := new(Record)
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if d.More() {
		return nil, fmt.Errorf("%w: text behind it", ErrInvalid)
	}
	if !form.Name.MatchString(r.Guest) || r.ID == "" || r.Namespace == "" || !filepath.IsAbs(r.Folder) {
		return nil, fmt.Errorf("%w: guest, id, namespace and folder are not all there", ErrInvalid)
	}
	return r, nil
}

// Remove removes a record, if there is one.
func (l *Ledger) Remove(guest string) error {
	if err := os.Remove(l.path(guest)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record of guest %s: %w", guest, err)
	}
	return l.sync()
}

// sync makes what was renamed or removed last.
func (l *Ledger) sync() error {
	d, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Debts lists records of guests that belong to no task any more. A record that
// can't be read is an error, and does not keep the others from being listed.
func (l *Ledger) Debts() (debts []*Record, err error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var bad []error
	for _, e := range entries {
		guest, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || strings.HasPrefix(guest, ".") {
			continue
		}
		r, err := l.Read(guest)
		switch {
		case errors.Is(err, ErrNone): // paid meanwhile
		case err != nil:
			bad = append(bad, err)
		case r.Abandoned || gone(r.Folder):
			debts = append(debts, r)
		}
	}
	return debts, errors.Join(bad...)
}

func gone(folder string) bool {
	_, err := os.Lstat(folder)
	return errors.Is(err, os.ErrNotExist)
}
