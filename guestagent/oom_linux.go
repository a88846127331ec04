package main

import (
	"os"
	"sync"
)

// Words of /proc/PID/oom_score_adj.
const (
	neverKilled  = "-1000"
	likeAnyOther = "0"
)

// oomScore is how this process fares when the guest runs out of memory. It is the
// last that may be killed: a workload without it would run on and nobody could
// verify it. The kernel takes something of the workload's then, and where there
// is nothing but PID 1 it panics, which ends the guest.
var oomScore score

type score struct{ mu sync.Mutex }

// set writes the word. A kernel without the file goes without: the working
// directory is /proc.
func (*score) set(word string) { _ = os.WriteFile("self/oom_score_adj", []byte(word), 0) }

// during lets a child be born as one that may be killed: it inherits the word.
func (s *score) during(fork func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(likeAnyOther)
	defer s.set(neverKilled)
	fork()
}
