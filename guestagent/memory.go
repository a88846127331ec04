package main

import (
	"slices"
	"sync"

	"github.com/secexec/secexec/proto/guestagent/v1"
	"github.com/secexec/secexec/proto/workload"
	"github.com/secexec/secexec/sealed"
)

// maxLogs bounds what is kept of the workload's output, in bytes: a small guest's
// memory is the workload's.
const maxLogs = 256 << 10

// entryCost is what an entry takes beside its text.
const entryCost = 64

// States of a workload, as the owner sees them.
const (
	waiting = "waiting" // for secrets
	running = "running"
	exited  = "exited" // and is run again
	done    = "done"
)

// memory is what the owner may ask about. It is pure; packets from guestinit and
// the owner's calls change it.
type memory struct {
	mu        sync.Mutex
	secrets   []string // of the plan
	delivered map[string]bool
	workload  *guestagentv1.Workload // nil: the root has an init

	logs    []*guestagentv1.LogEntry // numbered without a gap
	size    int                      // bytes they take
	last    uint64                   // number of the newest ever
	changed chan struct{}            // closed at the next entry
}

func newMemory(h *sealed.Handoff) *memory {
	m := &memory{delivered: make(map[string]bool), changed: make(chan struct{})}
	for _, s := range h.Channel.Secrets {
		m.secrets = append(m.secrets, s.Name)
	}
	if h.StopSignal == 0 {
		m.workload = &guestagentv1.Workload{State: waiting}
	}
	return m
}

// hear takes down what guestinit says of the workload.
func (m *memory) hear(msg workload.Message, millis uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.workload == nil {
		return
	}
	w := &guestagentv1.Workload{State: m.workload.State, Status: m.workload.Status, Restarts: m.workload.Restarts}
	switch msg := msg.(type) {
	case workload.Running:
		w.State, w.Restarts = running, msg.Restarts
	case workload.Exited:
		w.State, w.Status, w.Restarts = exited, uint32(msg.Status), msg.Restarts
	case workload.Done:
		w.State, w.Status = done, uint32(msg.Status)
	case workload.Log:
		m.log(msg, millis)
		return
	}
	m.workload = w // replaced: an answer may hold the old one
}

func (m *memory) log(msg workload.Log, millis uint64) {
	m.last++
	m.logs = append(m.logs, &guestagentv1.LogEntry{Number: m.last, Millis: millis, Error: msg.Err, Text: slices.Clone(msg.Text)})
	m.size += len(msg.Text) + entryCost
	drop := 0
	for m.size > maxLogs {
		m.size -= len(m.logs[drop].Text) + entryCost
		m.logs[drop] = nil
		drop++
	}
	m.logs = m.logs[drop:]
	close(m.changed)
	m.changed = make(chan struct{})
}

// after returns entries with higher numbers, the oldest first and about so many
// bytes of them, or what tells of the next.
func (m *memory) after(number uint64, limit int) ([]*guestagentv1.LogEntry, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if number >= m.last {
		return nil, m.changed
	}
	oldest := m.last + 1 - uint64(len(m.logs))
	entries, size := m.logs[max(number+1, oldest)-oldest:], 0
	for i, e := range entries {
		if size += len(e.Text) + entryCost; size > limit && i > 0 {
			entries = entries[:i]
			break
		}
	}
	return slices.Clone(entries), nil
}

// deliver takes down that a secret is there, and returns which are not.
func (m *memory) deliver(name string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delivered[name] = true
	var missing []string
	for _, s := range m.secrets {
		if !m.delivered[s] {
			missing = append(missing, s)
		}
	}
	return missing
}

// status is its part of the answer to Status.
func (m *memory) status() *guestagentv1.StatusResponse {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := &guestagentv1.StatusResponse{Workload: m.workload}
	for _, s := range m.secrets {
		out.Secrets = append(out.Secrets, &guestagentv1.Secret{Name: s, Delivered: m.delivered[s]})
	}
	return out
}
