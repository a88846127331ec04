package qemu

import (
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// answers remembers what programs said of themselves: to ask takes as long as
// half a guest's launch. A program is known by its file, so that an upgrade is
// asked anew; failures are not remembered.
type answers[T any] struct {
	mu    sync.Mutex
	known map[programFile]T
}

// programFile is a program's file at a moment.
type programFile struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// maxAnswers bounds what is remembered: a node has one QEMU, two while it is
// upgraded.
const maxAnswers = 16

func (a *answers[T]) get(binary string, ask func() (T, error)) (T, error) {
	key, ok := identify(binary)
	if ok {
		a.mu.Lock()
		answer, known := a.known[key]
		a.mu.Unlock()
		if known {
			return answer, nil
		}
	}
	answer, err := ask()
	if err != nil || !ok {
		return answer, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil || len(a.known) >= maxAnswers {
		a.known = make(map[programFile]T)
	}
	a.known[key] = answer
	return answer, nil
}

func identify(binary string) (programFile, bool) {
	path, err := exec.LookPath(binary)
	if err != nil {
		return programFile{}, false
	}
	info, err := os.Stat(path)
	if err != nil {
		return programFile{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return programFile{}, false
	}
	return programFile{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}, true
}
