package supervise

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/proto/workload"
)

// What guestagent has not read yet waits for it, and no more than agentQueue.
func TestTell(t *testing.T) {
	t.Parallel()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	if _, err := unix.IoctlGetUint32(pair[0], unix.SIOCOUTQ); err != nil {
		t.Skip("the queue of a socket can't be asked for, as under qemu-user: ", err)
	}
	o := &output{agent: pair[0], console: -1}
	const said = 1000
	for range said {
		o.tell(workload.Log{Text: make([]byte, 500)})
	}
	heard, b := 0, make([]byte, workload.MaxMessage)
	for {
		if _, err := unix.Read(pair[1], b); errors.Is(err, unix.EAGAIN) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		heard++
	}
	if heard < 10 || heard > agentQueue/500 {
		t.Errorf("of %d messages of 500 bytes %d wait, for a queue of %d bytes", said, heard, agentQueue)
	}
}
