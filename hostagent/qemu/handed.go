package qemu

import "fmt"

// FirstFD is the number of the first descriptor that a process is handed; 0 to 2
// are standard input, output and error.
const FirstFD = 3

// use is what QEMU does with a file that it is handed.
type use int

const (
	listenOn use = iota // accepts clients: a unix socket
	appendTo            // console log
	reopen              // opens it again, by its inode: the image
	memoryIn            // likewise, for guest memory: a new file
	readFrom            // disk
	writeTo             // disk
)

// handed is one file that hostagent opens for QEMU.
type handed struct {
	path string
	use  use
	size int64 // of memoryIn
	disk *Disk // of readFrom and writeTo
}

// files lists what QEMU would open by path: sockets, console, image, memory and
// disks. Tap interfaces follow behind them.
func (c *Config) files() []handed {
	var out []handed
	add := func(path string, use use, size int64) {
		if path != "" {
			out = append(out, handed{path: path, use: use, size: size})
		}
	}
	add(c.QMPSocket, listenOn, 0)
	add(c.ReadinessSocket, listenOn, 0)
	add(c.ChannelSocket, listenOn, 0)
	add(c.GDBSocket, listenOn, 0)
	add(c.ConsolePath, appendTo, 0)
	add(c.Kernel, reopen, 0)
	add(c.MemoryFile, memoryIn, int64(c.MemoryMiB)<<20)
	for i := range c.Disks {
		how := writeTo
		if c.Disks[i].ReadOnly {
			how = readFrom
		}
		out = append(out, handed{path: c.Disks[i].Path, use: how, disk: &c.Disks[i]})
	}
	return out
}

// number gives each file its descriptor, the first one FirstFD. The arguments
// name descriptors from then on.
func (c *Config) number(files []handed) {
	c.fds = make(map[string]int, len(files))
	c.sets = nil
	for i, f := range files {
		c.fds[f.path] = FirstFD + i
		if f.use == appendTo || f.use == readFrom || f.use == writeTo {
			c.sets = append(c.sets, FirstFD+i)
		}
	}
}

// file is what QEMU's qemu_open finds a handed file by: a descriptor set.
func (c *Config) file(path string) string {
	if fd, ok := c.fds[path]; ok {
		return fmt.Sprintf("/dev/fdset/%d", fd)
	}
	return path
}

// inode is for what QEMU opens with open(2), which knows no descriptor set. The
// kernel asks for the inode's permission, not for those of the folders above.
func (c *Config) inode(path string) string {
	if fd, ok := c.fds[path]; ok {
		return fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	return path
}

// descriptors makes the descriptor sets, each of one descriptor and of its number.
func descriptors(c *Config) []string {
	var argv []string
	for _, fd := range c.sets {
		argv = append(argv, "-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, fd))
	}
	return argv
}

// listen is a chardev that QEMU serves a unix socket on. It serves one client at
// a time and goes on when the client leaves: so a restarted hostagent can connect
// again. A handed socket listens before QEMU runs, so nobody needs to wait for it.
func (c *Config) listen(id, path string) []string {
	where := "path=" + escape(path)
	if fd, ok := c.fds[path]; ok {
		where = fmt.Sprintf("fd=%d", fd)
	}
	return []string{"-chardev", "socket,id=" + id + "," + where + ",server=on,wait=off"}
}
