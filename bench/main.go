// Command bench times secexec beside its peers, in one run on one machine, and
// writes what it saw: figures (JSON), a page with a table, a plot.
//
//	go run ./bench -out bench/results/NAME owner
//	bench/host.sh bench/results/NAME
//	bench/guest.sh bench/results/NAME
//	bench/shim.sh bench/results/NAME
//
// The second one runs "bench host", which wants a systemd, QEMU and libvirt, in a
// node of its own; the third one builds what "bench guest" boots, the fourth one
// the image of "bench shim", which wants root, containerd, runc and QEMU.
//
// Contestants take turns, so that whatever else the machine does hits all of
// them alike; a ratio is that of the medians. Nothing here is a test: a figure
// that disappoints fails nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	switch { // contestants, and a part of one
	case len(os.Args) > 2 && os.Args[1] == "sha512":
		exit(hashFiles(os.Args[2:]))
	case len(os.Args) == 3 && os.Args[1] == "hostd":
		exit(daemon(os.Args[2]))
	case len(os.Args) == 4 && os.Args[1] == "start":
		exit(startGuest(ctx, os.Args[2], os.Args[3]))
	case len(os.Args) == 3 && os.Args[1] == "pause":
		<-ctx.Done()
		exit(nil)
	}
	var o options
	var sizes string
	flag.IntVar(&o.runs, "runs", 5, "runs of each contestant")
	flag.StringVar(&o.disk, "disk", "/var/tmp", "folder on a disk for work, empty: not there")
	flag.StringVar(&o.memory, "memory", "/dev/shm", "folder in memory for work, empty: not there")
	flag.StringVar(&o.secexec, "secexec", "build/secexec", "secexec to time")
	flag.StringVar(&o.pvimg, "pvimg", "pvimg", "pvimg of s390-tools to time beside it; left out where there is none")
	flag.StringVar(&o.only, "only", "", "run only groups, or boots of guest, whose name contains this")
	flag.StringVar(&sizes, "sizes", "10,128,1024", "sizes of initrds and disks in MiB")
	flag.IntVar(&o.guests, "guests", 100, "guests of host")
	list := flag.String("cases", "", "file with the boots of guest")
	image := flag.String("image", "", "archive with the image of shim")
	programs := flag.String("programs", "build/s390x", "folder with guestinit and guestagent")
	out := flag.String("out", "", "folder for the results")
	flag.Parse()
	for word := range strings.SplitSeq(sizes, ",") {
		var n int64
		if _, err := fmt.Sscanf(word, "%d", &n); err != nil || n <= 0 {
			exit(fmt.Errorf("size %q is no number of MiB", word))
		}
		o.sizes = append(o.sizes, n)
	}
	if flag.NArg() != 1 || *out == "" {
		exit(errors.New("usage: bench [flags] -out DIR owner|host|guest|shim"))
	}
	switch flag.Arg(0) {
	case "owner":
		groups, err := owner(ctx, &o)
		if err != nil {
			exit(err)
		}
		exit(report(*out, filepath.Base(os.Args[0]), groups))
	case "guest":
		exit(guests(ctx, &o, *list, func(cases []*guestCase) error { return guestReport(*out, *programs, cases) }))
	case "host":
		all, floor, listed, err := host(ctx, &o)
		if err != nil {
			exit(err)
		}
		exit(hostReport(*out, all, floor, listed, &o))
	case "shim":
		all, floor, err := shims(ctx, &o, *image)
		if err != nil {
			exit(err)
		}
		exit(shimReport(*out, all, floor))
	}
	exit(fmt.Errorf("nothing to time is called %q", flag.Arg(0)))
}

// options are the command's flags.
type options struct {
	runs           int
	disk, memory   string
	secexec, pvimg string
	only           string
	sizes          []int64 // MiB
	guests         int
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
