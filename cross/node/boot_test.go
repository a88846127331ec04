package node

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// bootID makes the node a boot id of its own at each start: what /proc shows there
// is the machine's. seenBootID shows it to hostagent.
const (
	bootID = `[Unit]
DefaultDependencies=no
Before=hostagent.service
[Service]
Type=oneshot
ExecStart=/bin/cp /proc/sys/kernel/random/uuid /run/boot_id
RemainAfterExit=yes
[Install]
WantedBy=multi-user.target
`
	seenBootID = `[Service]
BindReadOnlyPaths=/run/boot_id:/proc/sys/kernel/random/boot_id
`
)

// A node that is turned off asks its guests to power off; one that is turned on
// starts those that are to be there.
func TestPowerCycle(t *testing.T) {
	t.Parallel()
	long(t)
	n := start(t)
	n.sh("mkdir -p /etc/systemd/system/hostagent.service.d")
	for name, text := range map[string]string{"boot-id.service": bootID, "hostagent.service.d/boot-id.conf": seenBootID} {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		n.verb("copy", file, "/etc/systemd/system/"+name)
	}
	n.sh("systemctl enable --now boot-id.service")
	n.install(older, "secexec", "secexec-hostagent")
	n.guest("")
	n.sh("secexec run /root/small --name again --autostart")
	n.until(`secexec logs again | grep -q 'hello from the sealed guest'`)

	n.try("systemctl poweroff")
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if _, err := n.try("true"); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the node is not off after %s", patience)
		}
	}
	n.verb("-k", "stop")
	n.verb("-n", "start")

	n.until("systemctl is-active hostagent.service")
	n.until(`secexec inspect again --json | grep -q '"state": "ready"'`)
	n.sh(`secexec inspect small --json | grep -q '"state": "stopped"'`)
	// Its console tells that it was asked, and was not cut off.
	n.sh("grep -aq 'tiny root: powers off' /var/lib/secexec/guests/small/console.log*")
	n.want("systemctl --failed --plain --no-legend", "")
}
