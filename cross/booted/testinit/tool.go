package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// eaten is what "eat" has taken.
var eaten [][]byte

// tool is what the same program does beside PID 1, for tests that run something
// in a guest.
func tool(args []string) int {
	switch args[0] {
	case "cat": // files, or standard input
		in := []io.Reader{os.Stdin}
		if len(args) > 1 {
			in = nil
		}
		for _, name := range args[1:] {
			f, err := os.Open(name)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			in = append(in, f)
		}
		if _, err := io.Copy(os.Stdout, io.MultiReader(in...)); err != nil {
			return 1
		}
	case "stat": // mode and owner of files
		for _, name := range args[1:] {
			var st unix.Stat_t
			err := unix.Stat(name, &st)
			fmt.Printf("%s %o %d:%d %v\n", name, st.Mode, st.Uid, st.Gid, err)
		}
	case "exit":
		fmt.Fprintln(os.Stderr, "leaves")
		n, _ := strconv.Atoi(args[1])
		return n
	case "year": // says it, or sets the clock to the day before its last one
		if len(args) == 1 {
			fmt.Println(time.Now().UTC().Year())
			break
		}
		year, _ := strconv.Atoi(args[1])
		at := unix.NsecToTimeval(0)
		at.Sec = time.Date(year, 12, 30, 0, 0, 0, 0, time.UTC).Unix()
		if err := unix.Settimeofday(&at); err != nil {
			fmt.Println(err)
			return 1
		}
	case "eat": // all memory
		for {
			meal := make([]byte, 16<<20)
			for i := 0; i < len(meal); i += 4096 {
				meal[i] = 1
			}
			eaten = append(eaten, meal)
		}
	case "size": // of its terminal
		size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Printf("%d rows, %d columns\n", size.Row, size.Col)
	case "serve": // a workload that needs a secret
		secret, err := os.ReadFile("/run/secexec/secrets/token")
		fmt.Printf("secret of %d bytes, %v\n", len(secret), err)
		fmt.Fprintln(os.Stderr, "canary-of-the-log")
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, unix.SIGTERM)
		<-stop
		fmt.Println("stops")
	case "network": // a workload that waits, with what it has of one
		all, _ := net.InterfaceAddrs()
		say("addresses %v", all)
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, unix.SIGTERM)
		say("waits")
		<-stop
	case "programs": // that were run beside the init, this one too
		groups, _ := filepath.Glob("/sys/fs/cgroup/secexec/exec-*")
		fmt.Println(len(groups))
	case "agent": // guestagent's memory, and how often it runs while nobody wants anything
		time.Sleep(3 * time.Second) // it has just started this
		status, before := agent()
		time.Sleep(4 * time.Second)
		_, after := agent()
		for line := range strings.Lines(status) {
			if name, pid, _ := strings.Cut(line, ":"); name == "Pid" {
				word, _ := os.ReadFile("/proc/" + strings.TrimSpace(pid) + "/oom_score_adj")
				fmt.Printf("oom_score_adj: %s\n", strings.TrimSpace(string(word)))
			}
			if strings.HasPrefix(line, "Vm") || strings.HasPrefix(line, "Threads") {
				fmt.Print(line)
			}
		}
		fmt.Printf("switches: %d\n", after-before)
	}
	return 0
}

// agent reads guestagent's status and counts the context switches of its threads.
func agent() (status string, switches int) {
	tasks, _ := filepath.Glob("/proc/[0-9]*/task/*/status")
	for _, path := range tasks {
		pid, _, _ := strings.Cut(path[len("/proc/"):], "/")
		cmdline, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		if !strings.HasPrefix(string(cmdline), "@guestagent") {
			continue
		}
		text, _ := os.ReadFile(path)
		for line := range strings.Lines(string(text)) {
			if name, value, _ := strings.Cut(line, ":"); strings.HasSuffix(name, "ctxt_switches") {
				n, _ := strconv.Atoi(strings.TrimSpace(value))
				switches += n
			}
		}
		if strings.HasSuffix(path, "/task/"+pid+"/status") {
			status = string(text)
		}
	}
	return status, switches
}
