package main

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

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
	case "size": // of its terminal
		size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Printf("%d rows, %d columns\n", size.Row, size.Col)
	case "ps": // processes, with memory and how often they woke up
		processes()
		for _, name := range args[1:] {
			dump(name)
		}
	}
	return 0
}
