// Command testapp is the program of the container image that booted tests seal:
// it says what it can see and do, ends with status 3 the first time and waits
// for a signal the next. As "testapp relay" it tells of its network and uses it as
// it is asked.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "orphan" {
		time.Sleep(time.Hour)
	}
	if len(os.Args) > 1 && os.Args[1] == "relay" {
		relay()
		return
	}
	report()
	runs, _ := os.ReadFile("/data/runs")
	say("runs before: %d, %v", len(runs), os.WriteFile("/data/runs", append(runs, '.'), 0o600))
	say("orphans: %d", orphans())
	if len(runs) == 0 {
		cmd := exec.Command("/proc/self/exe", "orphan")
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		say("leaves one behind: %v", cmd.Start())
		os.Exit(3)
	}
	stop := make(chan os.Signal, 4)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	flood()
	for sig := range stop {
		say("got %v", sig)
		time.Sleep(100 * time.Millisecond)
		say("last words")
		os.Exit(7)
	}
}

func say(format string, args ...any) { fmt.Printf("testapp: "+format+"\n", args...) }

func report() {
	dir, _ := os.Getwd()
	groups, _ := os.Getgroups()
	host, _ := os.Hostname()
	say("argv %q dir %s uid %d gid %d groups %v pid1 %v host %s", os.Args, dir, os.Getuid(), os.Getgid(), groups, os.Getppid() == 1, host)
	say("env %q", os.Environ())
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "NoNewPrivs") {
			say("%s", strings.Join(strings.Fields(line), " "))
		}
	}
	var limit unix.Rlimit
	say("files %v %d", unix.Getrlimit(unix.RLIMIT_NOFILE, &limit), limit.Cur)
	cgroup, _ := os.ReadFile("/proc/self/cgroup")
	say("cgroup %s", strings.TrimSpace(string(cgroup)))
	entries, _ := os.ReadDir("/dev")
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	say("dev %v", names)
	out, err := os.OpenFile("/dev/stdout", os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintln(out, "testapp: by its path")
	}
	say("open stdout: %v", err)
	fmt.Fprintln(os.Stderr, "testapp: to standard error")
	say("write shm: %v", os.WriteFile("/dev/shm/x", nil, 0o600))
	say("image's run: %v", os.WriteFile("/run/app/x", nil, 0o600))
	for _, path := range []string{"/proc/sys/kernel/core_pattern", "/sys/fs/cgroup/cgroup.procs", "/etc/new", "/run/new"} {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err == nil {
			f.Close()
		}
		say("write %s: %v", path, err)
	}
}

// orphans counts the processes of earlier runs that are there still.
func orphans() (n int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if strings.Contains(string(cmdline), "\x00orphan") {
			n++
		}
	}
	return n
}

// flood writes more than any console takes at once.
func flood() {
	line := strings.Repeat("flood ", 20) + "\n"
	for begun := time.Now(); time.Since(begun) < 2*time.Second; {
		fmt.Print(strings.Repeat(line, 64))
	}
	say("waits")
}
