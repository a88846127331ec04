// Command guest is the program of the guests that containerd's tests seal. Its
// argument says what it does: wait for a request to power off and end with
// status 7 then, end with status 3 at once, or wait and serve meanwhile what it
// knows of its network, on TCP port 7777.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	fmt.Println("guest: begins")
	if len(os.Args) > 1 && os.Args[1] == "fail" {
		fmt.Println("guest: ends by itself")
		os.Exit(3)
	}
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		go serve()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	fmt.Println("guest: waits")
	fmt.Printf("guest: got %v\n", <-stop)
	os.Exit(7)
}

func serve() {
	l, err := net.Listen("tcp", ":7777")
	if err != nil {
		fmt.Println("guest:", err)
		return
	}
	fmt.Println("guest: serves")
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		resolv, _ := os.ReadFile("/etc/resolv.conf")
		fmt.Fprintf(c, "%v\n%s", c.LocalAddr(), resolv)
		c.Close()
	}
}
