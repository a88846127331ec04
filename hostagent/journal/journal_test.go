package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// decode reads an entry as journald does, strictly.
func decode(b []byte) (map[string]string, error) {
	out := make(map[string]string)
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			return nil, errors.New("no line end")
		}
		name, value, plain := strings.Cut(string(b[:end]), "=")
		b = b[end+1:]
		if !plain {
			if len(b) < 8 {
				return nil, errors.New("no length")
			}
			n := binary.LittleEndian.Uint64(b)
			if b = b[8:]; n >= uint64(len(b)) || b[n] != '\n' {
				return nil, fmt.Errorf("field %s of %d bytes does not end", name, n)
			}
			value, b = string(b[:n]), b[n+1:]
		}
		if !regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`).MatchString(name) {
			return nil, fmt.Errorf("field name %q", name)
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("field %s twice", name)
		}
		out[name] = value
	}
	return out, nil
}

// logged is the fields of the line that do logs.
func logged(t *testing.T, do func(*slog.Logger)) map[string]string {
	t.Helper()
	var b bytes.Buffer
	do(slog.New(NewHandler(&b, slog.LevelInfo)))
	got, err := decode(b.Bytes())
	if err != nil {
		t.Fatalf("%v in %q", err, b.String())
	}
	if !strings.HasSuffix(got["CODE_FILE"], "journal_test.go") || got["CODE_LINE"] == "" || got["SYSLOG_IDENTIFIER"] != "hostagent" {
		t.Errorf("where it comes from: %v", got)
	}
	for _, name := range []string{"CODE_FILE", "CODE_LINE", "CODE_FUNC", "SYSLOG_IDENTIFIER"} {
		delete(got, name)
	}
	return got
}

func TestFields(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(*slog.Logger)
		want map[string]string
	}{
		"event": {
			func(l *slog.Logger) {
				l.Warn("guest settled", Settled, "guest", "web", "code", "H213", "was", "starting")
			},
			map[string]string{
				"MESSAGE": "guest settled guest=web code=H213 was=starting", "PRIORITY": "4", "MESSAGE_ID": Settled.Value.Any().(Event).ID,
				"SECEXEC_EVENT": "guest-settled", "SECEXEC_GUEST": "web", "SECEXEC_CODE": "H213", "SECEXEC_WAS": "starting",
			},
		},
		"levels and errors": {
			func(l *slog.Logger) { l.Debug("never"); l.Error("write", "error", errors.New("disk is full"), "n", 3) },
			map[string]string{"MESSAGE": `write error="disk is full" n=3`, "PRIORITY": "3", "SECEXEC_ERROR": "disk is full", "SECEXEC_N": "3"},
		},
		"groups": {
			func(l *slog.Logger) {
				l.With("guest", "a").WithGroup("qmp").With("x", 1).Info("m", slog.Group("g", "y", 2), "guest", "b", slog.Attr{})
			},
			map[string]string{
				"MESSAGE": "m guest=a qmp.x=1 qmp.g.y=2 qmp.guest=b", "PRIORITY": "6",
				"SECEXEC_GUEST": "a", "SECEXEC_QMP_X": "1", "SECEXEC_QMP_G_Y": "2", "SECEXEC_QMP_GUEST": "b",
			},
		},
		"twice": {
			func(l *slog.Logger) { l.With("guest", "a").Info("m", "guest", "b") },
			map[string]string{"MESSAGE": "m guest=b", "PRIORITY": "6", "SECEXEC_GUEST": "b"},
		},
		// What guests and clients write stays in its field.
		"forged": {
			func(l *slog.Logger) {
				l.Info("m\nPRIORITY=0", "guest", "a\nMESSAGE_ID=0\nSECEXEC_GUEST=b", "words", "x guest=other \"q\"", "bytes", "\x00\xff\x1b[2J", "k=\nPRIORITY", "=")
			},
			map[string]string{
				"MESSAGE":  "m\ufffdPRIORITY=0 guest=\"a\\nMESSAGE_ID=0\\nSECEXEC_GUEST=b\" words=\"x guest=other \\\"q\\\"\" bytes=\"\\x00\\xff\\x1b[2J\" k=\ufffdPRIORITY=\"=\"",
				"PRIORITY": "6", "SECEXEC_GUEST": "a\nMESSAGE_ID=0\nSECEXEC_GUEST=b", "SECEXEC_WORDS": "x guest=other \"q\"",
				"SECEXEC_BYTES": "\x00\xff\x1b[2J", "SECEXEC_K__PRIORITY": "=",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := logged(t, c.do); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// Long values are cut and many of them left out: an entry always fits a datagram.
func TestBounds(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	l := slog.New(NewHandler(&b, slog.LevelInfo))
	for i := range 40 {
		l = l.With(fmt.Sprintf("k%d", i), strings.Repeat("ä\n", 1<<20))
	}
	l.Info("m")
	got, err := decode(b.Bytes())
	if err != nil || b.Len() > 128<<10 || got["MESSAGE"] == "" {
		t.Errorf("%d bytes, %v", b.Len(), err)
	}
	for name, value := range got {
		if len(value) > maxValue {
			t.Errorf("%s has %d bytes", name, len(value))
		}
	}
}

// FuzzEncode: one line gives one entry, whose fields hold what they were given.
func FuzzEncode(f *testing.F) {
	f.Add("guest failed", "guest", "web\nPRIORITY=0")
	f.Add("", "=", "\x00")
	f.Fuzz(func(t *testing.T, message, key, value string) {
		got, err := decode(encode(slog.LevelInfo, message, 0, []slog.Attr{slog.String(key, value)}))
		if err != nil {
			t.Fatal(err)
		}
		if want := clip(value); got[fieldName(key)] != want || got["PRIORITY"] != "6" || len(got) != 4 {
			t.Errorf("got %q", got)
		}
	})
}

// Each event has an identifier of its own.
func TestEvents(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, e := range Events() {
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(e.ID) || !regexp.MustCompile(`^[a-z-]+$`).MatchString(e.Name) || seen[e.ID] || seen[e.Name] {
			t.Errorf("%+v", e)
		}
		seen[e.ID], seen[e.Name] = true, true
	}
}

// The page and the catalog that journalctl -x reads list the events.
func TestDocs(t *testing.T) {
	t.Parallel()
	for path, form := range map[string]*regexp.Regexp{
		"../../docs/logs.md":            regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| `([0-9a-f]{32})` \\|"),
		"../../systemd/secexec.catalog": regexp.MustCompile(`(?m)^()-- ([0-9a-f]{32})\nSubject: `),
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		listed := make(map[string]string)
		for _, m := range form.FindAllStringSubmatch(string(text), -1) {
			listed[m[2]] = m[1]
		}
		for _, e := range Events() {
			if name, ok := listed[e.ID]; !ok || name != e.Name && name != "" {
				t.Errorf("%s: %s (%s) is not listed, or as %q", path, e.Name, e.ID, name)
			}
			delete(listed, e.ID)
		}
		if len(listed) > 0 {
			t.Errorf("%s lists what there is not: %v", path, listed)
		}
	}
}

// A journald that was restarted hears again; one that does not read costs a line
// its place and nobody more than a moment.
func TestConn(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "j")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "socket")
	listen := func() *net.UnixConn {
		t.Helper()
		os.Remove(path)
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	hears := func(l *net.UnixConn, want string) {
		t.Helper()
		b := make([]byte, 1<<10)
		_ = l.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := l.Read(b); err != nil || !strings.HasPrefix(string(b[:n]), want) {
			t.Errorf("heard %q, %v", b[:n], err)
		}
	}
	l := listen()
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(NewHandler(c, slog.LevelInfo))
	log.Info("one")
	hears(l, "MESSAGE=one\n")
	l.Close()
	log.Info("lost")
	l = listen()
	defer l.Close()
	log.Info("two")
	hears(l, "MESSAGE=two\n")
	for range 100_000 {
		if _, err = c.Write(make([]byte, 32<<10)); err != nil {
			break
		}
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a full journal gives %v", err)
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if streams(w, "") || streams(w, "0:1") || streams(w, "8:1:2") {
		t.Error("a stream that is not ours")
	}
	if !streams(w, streamOf(t, w)) {
		t.Error("our own stream is not known")
	}
}

func streamOf(t *testing.T, f *os.File) string {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

func TestObserve(t *testing.T) {
	t.Parallel()
	var seen []string
	var b bytes.Buffer
	l := slog.New(Observe(slog.NewTextHandler(&b, nil), func(e Event, attrs map[string]string) {
		seen = append(seen, e.Name+" "+attrs["guest"]+" "+attrs["is"])
	}))
	l.Info("nothing", "guest", "a")
	l.With("guest", "a").Info("settled", Settled, "is", "failed")
	l.WithGroup("g").Info("adopted", Adopted, "guest", "b")
	if want := []string{"guest-settled a failed", "guest-adopted b "}; !reflect.DeepEqual(seen, want) {
		t.Errorf("seen %q", seen)
	}
	if !strings.Contains(b.String(), "event=guest-settled") || strings.Count(b.String(), "\n") != 3 {
		t.Errorf("text log:\n%s", b.String())
	}
}
