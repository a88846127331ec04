package console

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secexec/secexec/proto/hostagent/v1"
)

// log is a console that hostagent has; away makes calls fail.
type log struct {
	mu   sync.Mutex
	text string
	away error
	asks int
}

func (l *log) Console(_ context.Context, _ string, offset int64, limit int) (*hostagentv1.ConsoleResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asks++
	if l.away != nil {
		return nil, l.away
	}
	size := int64(len(l.text))
	if offset > size {
		offset = 0
	}
	end := min(size, offset+int64(min(limit, 5)))
	return &hostagentv1.ConsoleResponse{Data: []byte(l.text[offset:end]), Next: end, Size: size}, nil
}

// now changes it.
func (l *log) now(text string, away error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text, l.away = text, away
}

var errAway = errors.New("away")

func TestFollow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &log{text: "first words\n"}
		var out bytes.Buffer
		ended, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- Follow(t.Context(), l, "g", ended, &out) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if out.String() != "first words\n" {
			t.Errorf("after an hour: %q", &out)
		}
		if l.asks > 3700 {
			t.Errorf("asked %d times in an hour of silence", l.asks)
		}
		l.now(l.text, errAway)
		time.Sleep(time.Hour)
		l.now("first words\nmore\n", nil)
		time.Sleep(time.Minute)
		l.now("first words\nmore\nlast words, in several pieces\n", nil)
		close(ended)
		if err := <-done; err != nil || out.String() != l.text {
			t.Errorf("error %v, copied %q", err, &out)
		}
	})
}

// A log that hostagent cut is read from its beginning.
func TestFollowCutLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &log{text: "a long text that is cut"}
		var out bytes.Buffer
		ended, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- Follow(t.Context(), l, "g", ended, &out) }()
		time.Sleep(time.Minute)
		l.now("new", nil)
		time.Sleep(time.Minute)
		close(ended)
		if err := <-done; err != nil || out.String() != "a long text that is cutnew" {
			t.Errorf("error %v, copied %q", err, &out)
		}
	})
}

// When the guest has ended and hostagent is away for good, Follow ends too.
func TestFollowEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		close(ended)
		if err := Follow(t.Context(), &log{away: errAway}, "g", ended, io.Discard); !errors.Is(err, errAway) {
			t.Errorf("error %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		if err := Follow(ctx, new(log), "g", nil, io.Discard); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// A FIFO's reader may come late, go and come again; it sees the end.
func TestFIFO(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := Open(path, Task{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("early ")); err != nil {
		t.Fatal(err)
	}
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 6)
	if _, err := io.ReadFull(r, b); err != nil || string(b) != "early " {
		t.Errorf("read %q %v", b, err)
	}
	r.Close()
	if _, err := w.Write([]byte("late")); err != nil {
		t.Fatalf("write without a reader: %v", err)
	}
	if r, err = os.Open(path); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.Close()
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "late" {
		t.Errorf("read %q %v", rest, err)
	}
}

// A write that nobody takes ends when the output is closed.
func TestFIFOThatNobodyReads(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := Open(path, Task{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := w.Write(make([]byte, 1<<20))
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	w.Close()
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("error %v", err)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "log")
	for range 2 { // it appends
		w, err := Open("file://"+file, Task{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "xx" {
		t.Errorf("file holds %q %v", text, err)
	}
	if w, err := Open("", Task{}); err != nil {
		t.Error(err)
	} else if n, err := w.Write([]byte("abc")); n != 3 || err != nil {
		t.Errorf("output to nowhere: %d %v", n, err)
	}
	for name, words := range map[string]string{
		filepath.Join(dir, "none"):               "no such file",
		"npipe:////./pipe/x":                     "neither a FIFO nor file:// nor binary://",
		"binary:///no/such/program?a=b":          "no such file",
		"file://" + filepath.Join(dir, "none/x"): "no such file",
	} {
		if _, err := Open(name, Task{}); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A program takes the output, as nerdctl's does; this test binary is one.
func TestLogger(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "log")
	w, err := Open("binary://"+self+"?-log="+file, Task{Namespace: "default", ID: "web"})
	if errors.Is(err, syscall.ENOEXEC) {
		t.Skip("the kernel cannot run this test's own program: emulation by qemu-user without binfmt_misc")
	} else if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("words")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "default/web: words" {
		t.Errorf("it wrote %q %v", text, err)
	}
}

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "-log" {
		if err := takeLogs(os.Args[2]); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// takeLogs is a program that takes logs.
func takeLogs(file string) error {
	os.NewFile(5, "ready").Close()
	text, err := io.ReadAll(os.NewFile(3, "stdout"))
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(os.Getenv("CONTAINER_NAMESPACE")+"/"+os.Getenv("CONTAINER_ID")+": "+string(text)), 0o600)
}
