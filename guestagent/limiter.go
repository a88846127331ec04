package main

import "time"

// limiter lets at most perSecond lines pass in each second, so that a host
// that floods the port can't take the workload's CPU by signatures.
type limiter struct {
	second time.Time
	lines  int
}

// wait returns when the next line may be answered.
func (l *limiter) wait(now func() time.Time, sleep func(time.Duration)) {
	t := now()
	if t.Sub(l.second) >= time.Second {
		l.second, l.lines = t, 0
	}
	if l.lines == perSecond {
		sleep(l.second.Add(time.Second).Sub(t))
		l.second, l.lines = now(), 0
	}
	l.lines++
}
