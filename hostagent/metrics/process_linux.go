package metrics

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process adds what hostagent itself takes, by the names that Prometheus's own
// libraries have given these metrics.
func (s *Set) Process() {
	start := float64(time.Now().UnixMilli()) / 1e3
	s.Read("process_start_time_seconds", "When hostagent started, since 1970.", nil, func() []Value { return One(start) })
	s.Read("process_cpu_seconds_total", "Processor time of hostagent.", nil, func() []Value {
		var r syscall.Rusage
		if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
			return nil
		}
		return One(float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9)
	})
	s.Read("process_resident_memory_bytes", "Resident memory of hostagent.", nil, func() []Value {
		text, err := os.ReadFile("/proc/self/statm")
		if words := strings.Fields(string(text)); err == nil && len(words) > 1 {
			if pages, err := strconv.ParseUint(words[1], 10, 48); err == nil {
				return One(float64(pages) * float64(os.Getpagesize()))
			}
		}
		return nil
	})
	s.Read("process_open_fds", "Descriptors that hostagent has open.", nil, func() []Value {
		d, err := os.Open("/proc/self/fd")
		if err != nil {
			return nil
		}
		defer d.Close()
		names, err := d.Readdirnames(-1)
		if err != nil {
			return nil
		}
		return One(float64(len(names) - 1)) // without the folder's own
	})
	s.Read("process_max_fds", "Descriptors that hostagent may have open.", nil, func() []Value {
		var r syscall.Rlimit
		if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
			return nil
		}
		return One(float64(r.Cur))
	})
	s.Read("go_goroutines", "Goroutines of hostagent.", nil, func() []Value { return One(float64(runtime.NumGoroutine())) })
}
