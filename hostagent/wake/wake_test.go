package wake

import (
	"os"
	"testing"
	"time"
)

const patience = 20 * time.Second

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func await(t *testing.T, r *os.File) (<-chan struct{}, *Call) {
	t.Helper()
	raw, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{}, 2)
	c, err := Readable(raw, func() { done <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	return done, c
}

func called(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("nothing was done")
	}
}

func TestReadable(t *testing.T) {
	t.Parallel()
	r, w := pipe(t)
	for range 3 { // a descriptor serves again
		done, c := await(t, r)
		select {
		case <-done:
			t.Fatal("done before there was anything")
		case <-time.After(10 * time.Millisecond):
		}
		if _, err := w.Write([]byte("xy")); err != nil {
			t.Fatal(err)
		}
		called(t, done)
		if c.Cancel() {
			t.Error("cancelled what was done")
		}
		if _, err := r.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
	}
	done, _ := await(t, r)
	w.Close()
	called(t, done)
}

func TestCancel(t *testing.T) {
	t.Parallel()
	r, w := pipe(t)
	done, c := await(t, r)
	if !c.Cancel() || c.Cancel() {
		t.Error("a call is cancelled once")
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	other, _ := await(t, r) // told at once, and alone
	called(t, other)
	select {
	case <-done:
		t.Error("what was cancelled was done")
	default:
	}
	raw, err := r.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, err := Readable(raw, func() {}); err == nil {
		t.Error("waits for a closed file")
	}
}
