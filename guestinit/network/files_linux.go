package network

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/sealed"
)

// filesDir holds the files that are mounted over the root's. It is in memory.
const filesDir = "/run/secexec/network"

// writeFiles gives the root its /etc/hostname, /etc/hosts and /etc/resolv.conf.
// They lie in memory and are mounted over the root's own, which stay as they
// are: so a root that can't be written has them, too. resolv.conf stays open:
// by its path a program might lead a later writer elsewhere.
func writeFiles(dir, root, hostname string, n *sealed.Network, ndots uint8, l *Lease) (resolv *os.File, err error) {
	defer func() {
		if err != nil && resolv != nil {
			resolv.Close()
		}
	}()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	for _, f := range []struct {
		name, text string
		use, must  bool
	}{
		{"hostname", hostname + "\n", hostname != "", false},
		{"hosts", hosts(hostname, n, l), true, false},
		{"resolv.conf", resolvConf(n, ndots, l), n != nil, resolvConf(n, ndots, l) != ""},
	} {
		if !f.use {
			continue
		}
		path := dir + "/" + f.name
		if err := os.WriteFile(path, []byte(f.text), 0o644); err != nil {
			return resolv, fmt.Errorf("write %s: %w", f.name, err)
		}
		if f.name == "resolv.conf" {
			if resolv, err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
				return nil, fmt.Errorf("open %s: %w", f.name, err)
			}
		}
		err := cover(root, f.name, path)
		if err != nil && (f.must || !errors.Is(err, unix.EROFS)) {
			return resolv, fmt.Errorf("mount /etc/%s: %w", f.name, err)
		}
	}
	return resolv, nil
}

// cover mounts a file over one in the root's /etc, which it makes where there
// is none. A symbolic link counts as it does in the root: none leads out.
func cover(root, name, source string) error {
	top, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	const within = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	etc, err := unix.Openat2(top, "etc", &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: within})
	if errors.Is(err, unix.ENOENT) {
		if err = unix.Mkdirat(top, "etc", 0o755); err == nil {
			etc, err = unix.Openat(top, "etc", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
	}
	if err != nil {
		return err
	}
	defer unix.Close(etc)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: within}
	target, err := unix.Openat2(top, "etc/"+name, how)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
		// A link to nowhere, such as to a resolver that is not there, goes.
		if err := unix.Unlinkat(etc, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		made, err := unix.Openat(etc, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		unix.Close(made)
		if target, err = unix.Openat(etc, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	defer unix.Close(target)
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("not a file")
	}
	on := fmt.Sprintf("/proc/self/fd/%d", target)
	if err := unix.Mount(source, on, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return nil
}

// rewrite changes the text of a file that is mounted and read by programs.
func rewrite(f *os.File, text string) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(text), 0)
	return err
}
