package main

import (
	"bytes"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// notify uses the notification socket, where the owner sealed that there is one.
// At its first boot the workload is in trouble and never ready.
func notify() {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	info, err := os.Stat(path)
	if err != nil {
		say("notify: %v", err)
		return
	}
	say("notify: %s %v", path, info.Mode())
	unix.Sync() // the test ends the first boot without asking
	text := "READY=1\nSTATUS=" + "canary-status"
	if boots, _ := os.ReadFile("/boots"); len(boots) == 1 {
		text = "WATCHDOG=trigger\nSTATUS=" + "canary-status"
	}
	c, err := net.Dial("unixgram", path)
	if err == nil {
		_, err = c.Write([]byte(text))
	}
	say("notify: said it %v", err)
}

// killAgent kills guestagent where /srv/kill-agent asks for it, and goes on.
func killAgent() {
	if _, err := os.Stat("/srv/kill-agent"); err != nil {
		return
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		pid, err := strconv.Atoi(e.Name())
		if err == nil && bytes.HasPrefix(cmdline, []byte("@guestagent")) {
			say("guestagent killed: %v", unix.Kill(pid, unix.SIGKILL))
			time.Sleep(time.Second)
			say("goes on without guestagent: %v", unix.Kill(pid, 0)) // a zombie: nobody reaps here
		}
	}
}
