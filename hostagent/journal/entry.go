package journal

import (
	"encoding/binary"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of an entry. A datagram on a unix socket holds at least 64 KiB more
// than an entry of all fields at their longest.
const (
	maxValue  = 8 << 10  // bytes of a field's value
	maxEntry  = 96 << 10 // bytes of an entry; fields beyond are left out
	maxName   = 64       // characters of a field's name, as journald has it
	prefix    = "SECEXEC_"
	truncated = "…"
)

// entry is a journal entry in the making, in the native protocol: fields that
// are each NAME=value and a line end, or, where the value holds a line end or
// any other control character, NAME, a line end, the value's length as 64 bits
// in little endian, the value, a line end.
// Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL
type entry []byte

// field adds a field. Whatever the value holds it stays this field's value.
func (e entry) field(name, value string) entry {
	value = clip(value)
	if len(e)+len(name)+len(value)+10 > maxEntry {
		return e
	}
	e = append(e, name...)
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == utf8.RuneError }) {
		e = append(e, '\n')
		e = binary.LittleEndian.AppendUint64(e, uint64(len(value)))
	} else {
		e = append(e, '=')
	}
	e = append(e, value...)
	return append(e, '\n')
}

func clip(value string) string {
	if len(value) <= maxValue {
		return value
	}
	return strings.ToValidUTF8(value[:maxValue-len(truncated)], "") + truncated
}

// fieldName makes a field's name of an attribute's key.
func fieldName(key string) string {
	name := prefix + strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, key)
	return name[:min(len(name), maxName)]
}

// priority is syslog's number for a level.
func priority(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "7" // debug
	case l < slog.LevelWarn:
		return "6" // info
	case l < slog.LevelError:
		return "4" // warning
	}
	return "3" // err
}

// encode makes the entry of a log line. Of two attributes of one key the last
// one counts. MESSAGE holds them all too, since it is what journalctl shows.
func encode(level slog.Level, message string, pc uintptr, attrs []slog.Attr) []byte {
	var text strings.Builder
	text.WriteString(printable(message))
	var fields entry
	last := make(map[string]int, len(attrs))
	for i, a := range attrs {
		last[a.Key] = i
	}
	for i, a := range attrs {
		if last[a.Key] != i {
			continue
		}
		if e, ok := a.Value.Any().(Event); ok {
			fields = fields.field("MESSAGE_ID", e.ID).field(fieldName(a.Key), e.Name)
			continue
		}
		value := clip(a.Value.String())
		text.WriteString(" " + printable(a.Key) + "=" + quoted(value))
		fields = fields.field(fieldName(a.Key), value)
	}
	out := entry(nil).field("MESSAGE", text.String()).field("PRIORITY", priority(level)).field("SYSLOG_IDENTIFIER", "hostagent")
	if pc != 0 {
		f, _ := runtime.CallersFrames([]uintptr{pc}).Next()
		out = out.field("CODE_FILE", f.File).field("CODE_LINE", strconv.Itoa(f.Line)).field("CODE_FUNC", f.Function)
	}
	if len(out)+len(fields) > maxEntry {
		return out // a program error: the fields are in MESSAGE as far as they fit
	}
	return append(out, fields...)
}

// quoted shows a value of MESSAGE so that it can't pass for other fields, as
// slog's text does.
func quoted(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || r == '"' || r == '=' || r == '\\' || !unicode.IsPrint(r) || r == utf8.RuneError
	}) {
		return strconv.Quote(s)
	}
	return s
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\ufffd'
		}
		return r
	}, s)
}
