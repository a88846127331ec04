package qemu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Limits on what a QEMU may send. A guest that took over its QEMU can send
// anything; these keep it from filling hostagent's memory.
const (
	maxLine      = 1 << 20 // bytes of one QMP message with its line end
	maxEventData = 4096    // bytes of an event's data that are kept
	maxText      = 1024    // bytes kept of a text that goes into an error
	maxRate      = 1 << 20 // bytes a second that are read of a QEMU that floods its monitor
)

// ErrProtocol is wrapped by every error about what a QEMU sent: no greeting,
// no JSON, a line without end. The connection is closed then.
var ErrProtocol = errors.New("QMP protocol error")

// Event is what QEMU says unasked.
type Event struct {
	Name string    // such as SHUTDOWN, GUEST_PANICKED
	Time time.Time // QEMU's clock
	// Data is the event's JSON object; nil if there is none or it was larger
	// than 4096 bytes.
	Data json.RawMessage
}

// CommandError is QEMU's own refusal of a command.
type CommandError struct {
	Class string // such as GenericError, CommandNotFound
	Desc  string
}

func (e *CommandError) Error() string { return fmt.Sprintf("QEMU answers %s: %s", e.Class, e.Desc) }

// message is one decoded line: exactly one of its parts is set.
type message struct {
	greeting *greeting
	event    *Event
	reply    *reply
}

type greeting struct {
	Release Release
}

// reply answers the command of the same id.
type reply struct {
	id  uint64
	ret json.RawMessage
	err *CommandError
}

// wire is the union of all QMP messages.
type wire struct {
	QMP *struct {
		Version struct {
			QEMU struct {
				Major, Minor, Micro int
			} `json:"qemu"`
			Package string `json:"package"`
		} `json:"version"`
	} `json:"QMP"`

	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp *struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`

	ID     *uint64         `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// decode reads one line of QMP. Unknown fields are let through: QEMU adds
// some with each release.
func decode(line []byte) (message, error) {
	line = bytes.TrimRight(line, "\r\n")
	if len(line) > maxLine {
		return message{}, fmt.Errorf("%w: message of %d bytes, at most %d", ErrProtocol, len(line), maxLine)
	}
	var w wire
	if err := json.Unmarshal(line, &w); err != nil {
		return message{}, fmt.Errorf("%w: %v", ErrProtocol, err)
	}
	kinds := 0
	for _, has := range []bool{w.QMP != nil, w.Event != "", w.Return != nil, w.Error != nil} {
		if has {
			kinds++
		}
	}
	if kinds != 1 {
		return message{}, fmt.Errorf("%w: message is not one of greeting, event, return and error", ErrProtocol)
	}
	switch {
	case w.QMP != nil:
		v := w.QMP.Version
		return message{greeting: &greeting{Release{
			Major: v.QEMU.Major, Minor: v.QEMU.Minor, Micro: v.QEMU.Micro, Package: clip(v.Package),
		}}}, nil
	case w.Event != "":
		e := &Event{Name: clip(w.Event)}
		if w.Timestamp != nil {
			e.Time = time.Unix(w.Timestamp.Seconds, 0).Add(time.Duration(w.Timestamp.Microseconds%1e6) * time.Microsecond)
		}
		if len(w.Data) <= maxEventData {
			e.Data = bytes.Clone(w.Data)
		}
		return message{event: e}, nil
	}
	if w.ID == nil {
		// QEMU answers so when it could not even parse the command. All
		// commands are ours and well formed.
		return message{}, fmt.Errorf("%w: reply without the id of a command", ErrProtocol)
	}
	r := &reply{id: *w.ID, ret: bytes.Clone(w.Return)}
	if w.Error != nil {
		r.err = &CommandError{Class: clip(w.Error.Class), Desc: clip(w.Error.Desc)}
	}
	return message{reply: r}, nil
}

// clip bounds a text and makes it fit for one line of a log or terminal.
func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return string(bytes.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, bytes.ToValidUTF8([]byte(s), []byte("?"))))
}
