package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// relay serves lines on TCP port 7777: "network" is answered with what the guest
// has of one; an address is connected to, and its answer to "network" or the
// error is passed on.
func relay() {
	l, err := net.Listen("tcp", ":7777")
	if err != nil {
		say("relay: %v", err)
		os.Exit(1)
	}
	say("waits")
	for {
		c, err := l.Accept()
		if err != nil {
			say("relay: %v", err)
			os.Exit(1)
		}
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(3 * time.Minute))
			line, _ := bufio.NewReader(io.LimitReader(c, 100)).ReadString('\n')
			if line = strings.TrimSpace(line); line == "network" {
				fmt.Fprint(c, describe())
				return
			}
			fmt.Fprint(c, ask(line))
		}()
	}
}

func ask(line string) string {
	address, wait, _ := strings.Cut(line, " ")
	limit, err := time.ParseDuration(wait)
	if err != nil {
		limit = time.Minute
	}
	c, err := net.DialTimeout("tcp", address, limit)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintln(c, "network")
	answer, err := io.ReadAll(io.LimitReader(c, 1<<20))
	return fmt.Sprintf("%s%v", answer, err)
}

// describe tells interfaces, name servers and 100 KiB more, to fill packets.
func describe() string {
	var b strings.Builder
	all, _ := net.Interfaces()
	for _, i := range all {
		addresses, _ := i.Addrs()
		fmt.Fprintf(&b, "%s %s mtu %d %v\n", i.Name, i.HardwareAddr, i.MTU, addresses)
	}
	resolv, _ := os.ReadFile("/etc/resolv.conf")
	b.Write(resolv)
	b.WriteString(strings.Repeat("much ", 20<<10))
	b.WriteString("\nend\n")
	return b.String()
}
