// Package progress tells the host how far the boot has come: stage lines on the
// readiness port, and on failure a fixed sentence on the console.
package progress

import "github.com/secexec/secexec/proto/readiness"

// Stages collects the stages passed, for the port now and for guestagent later.
type Stages struct {
	Passed []readiness.Stage
	port   Port
	bootID [readiness.IDSize]byte
	hello  bool
}

// Port is where lines go. Write never waits; what the host does not take is lost.
type Port interface {
	Write(line []byte) error
}

// New starts with no stage. Without a port, nil, stages are collected only.
func New(port Port, bootID [readiness.IDSize]byte) *Stages {
	return &Stages{port: port, bootID: bootID}
}

// Pass records a stage and tells the host.
func (s *Stages) Pass(name string, millis uint64) {
	stage := readiness.Stage{Name: name, Millis: millis}
	s.Passed = append(s.Passed, stage)
	s.say(stage)
}

// Fail tells the host that guestinit gives up.
func (s *Stages) Fail(code string, millis uint64) {
	s.say(readiness.Fail{Code: code, Millis: millis})
}

func (s *Stages) say(m readiness.Message) {
	if s.port == nil {
		return
	}
	if !s.hello {
		// Repeated until the host takes it: it may not be connected yet.
		s.hello = s.port.Write(line(readiness.Hello{Version: readiness.Version, Speaker: "guestinit", BootID: s.bootID})) == nil
	}
	_ = s.port.Write(line(m))
}

func line(m readiness.Message) []byte { return append([]byte(m.String()), '\n') }

// Attach begins the use of a port that was not there before. What was passed until
// then guestagent tells, who is asked for all of it.
func (s *Stages) Attach(port Port) { s.port = port }

// Detach ends the use of the port, which is somebody else's now.
func (s *Stages) Detach() { s.port = nil }
