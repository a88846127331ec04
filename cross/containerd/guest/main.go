// Command guest is the program of the guests that containerd's tests seal. Its
// argument says what it does: wait for a request to power off and end with
// status 7 then, or end with status 3 at once.
package main

import (
	"fmt"
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
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	fmt.Println("guest: waits")
	fmt.Printf("guest: got %v\n", <-stop)
	os.Exit(7)
}
