package node

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// launchers are the ways in which hostagent starts QEMU under systemd: in units
// of their own, or as its children, for which its own unit must allow more.
var launchers = []struct{ name, setup string }{
	{"systemd", ""},
	{"direct", `mkdir -p /etc/systemd/system/hostagent.service.d
		cp /usr/share/doc/secexec-hostagent/examples/direct.conf /etc/systemd/system/hostagent.service.d/
		echo 'launcher: direct' >>/etc/secexec/hostagent.yaml
		systemctl daemon-reload`},
}

// guest makes an emulated host of the node, builds a small guest for it with the
// installed owner's command and runs it until it is ready.
func (n *node) guest(setup string) {
	n.t.Helper()
	n.verb("copy", filepath.Join(lab.cache, "kernel"), "/root/kernel")
	n.verb("copy", filepath.Join(lab.cache, "roots/tiny.tar"), "/root/")
	n.sh(`secexec emulate init /etc/secexec/emulated-host
		printf 'platform: emulated\nemulated_host: /etc/secexec/emulated-host\n' >>/etc/secexec/hostagent.yaml
		` + setup)
	n.sh(`cd /root; secexec build --root tiny.tar --kernel kernel/vmlinuz --modules kernel/modules --memory 256 \
		-k /etc/secexec/emulated-host/host.crt --no-verify -o small --secrets small-secrets
		secexec run small --identity small-secrets/identity.pub`)
}

// qemu is the number of the one process that is the guest's QEMU.
func (n *node) qemu() string {
	n.t.Helper()
	// hostagent also asks QEMU for its version, in processes of no guest.
	pids := n.sh(`for p in $(pidof qemu-system-s390x); do ! grep -qa guest=small /proc/$p/cmdline || echo $p; done`)
	if pids == "" || strings.Contains(pids, "\n") {
		n.t.Fatalf("QEMU's processes: %q", pids)
	}
	return pids
}

// lives wants the guest ready, in the process it was in, and answering.
func (n *node) lives(pid, after string) {
	n.t.Helper()
	n.until("[ $(secexec ps --json | grep -c '\"state\": \"ready\"') = 1 ]")
	if now := n.qemu(); now != pid {
		n.t.Errorf("after %s QEMU is process %s, was %s", after, now, pid)
	}
	n.sh("secexec verify small --identity /root/small-secrets/identity.pub")
}

// A guest outlives everything that befalls hostagent and its package.
func TestGuestOutlives(t *testing.T) {
	t.Parallel()
	long(t)
	for _, l := range launchers {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			n := start(t)
			n.install(older, "secexec", "secexec-hostagent")
			n.guest(l.setup)
			pid := n.qemu()
			main := func() string { return n.sh("systemctl show -P MainPID hostagent.service") }
			replaced := func(old string) {
				n.t.Helper()
				n.until("pid=$(systemctl show -P MainPID hostagent.service); [ $pid != 0 ] && [ $pid != " + old + " ]")
			}
			if unit := n.sh("cat /proc/" + pid + "/cgroup"); strings.Contains(unit, "/secexec.slice/") != (l.name == "systemd") {
				t.Errorf("QEMU is in %s", unit)
			}

			n.sh("systemctl restart hostagent.service")
			n.lives(pid, "restart")

			agent := main()
			n.sh("kill -9 " + agent)
			replaced(agent)
			n.lives(pid, "kill -9")

			// The watchdog's time is shortened, for the test's sake.
			n.sh(`mkdir -p /run/systemd/system/hostagent.service.d
				printf '[Service]\nWatchdogSec=5\n' >/run/systemd/system/hostagent.service.d/watchdog.conf
				systemctl daemon-reload && systemctl restart hostagent.service`)
			agent = main()
			n.sh("kill -STOP " + agent)
			replaced(agent)
			n.until("journalctl -u hostagent.service -o cat | grep -qi watchdog")
			n.lives(pid, "the watchdog")

			agent = main()
			n.install(newer, "secexec", "secexec-hostagent")
			replaced(agent)
			n.until(`secexec node --json | grep -q '"version": "` + newer + `"'`)
			n.lives(pid, "upgrade")

			n.sh("dpkg -r secexec-hostagent")
			n.want("systemctl is-active hostagent.socket hostagent.service || true", "inactive\ninactive")
			if now := n.qemu(); now != pid {
				t.Errorf("after removal QEMU is process %s, was %s", now, pid)
			}
			n.install(newer, "secexec-hostagent")
			n.lives(pid, "removal and installation")

			if out := n.sh("dpkg -P secexec-hostagent </dev/null"); !strings.Contains(out, "a new installation takes them over") {
				t.Errorf("purge with a guest that runs: %s", out)
			}
			if now := n.qemu(); now != pid {
				t.Errorf("after purge QEMU is process %s, was %s", now, pid)
			}
			n.sh("test -s /var/lib/secexec/guests/small/guest.json")
			// A new settings file: the old one went with the package.
			n.install(older, "secexec-hostagent")
			n.sh("printf 'platform: emulated\nemulated_host: /etc/secexec/emulated-host\n' >>/etc/secexec/hostagent.yaml\n" + l.setup)
			n.sh("systemctl try-restart hostagent.service")
			n.lives(pid, "purge and installation")

			n.sh("secexec stop small")
			n.until("! grep -qas guest=smal[l] /proc/[0-9]*/cmdline")
			if out := n.sh("dpkg -P secexec-hostagent </dev/null"); !strings.Contains(out, "stay in /var/lib/secexec") {
				t.Errorf("purge with a stopped guest: %s", out)
			}
			n.sh("test -s /var/lib/secexec/guests/small/guest.json")
			n.want("systemctl --failed --plain --no-legend", "")
		})
	}
}

// At a terminal purge asks before it deletes guests.
func TestPurgeAsks(t *testing.T) {
	t.Parallel()
	n := start(t)
	n.install(older, "secexec-hostagent")
	n.sh("mkdir -p /var/lib/secexec/guests/one")
	terminal := func(answer string) string {
		// script(1) gives the maintainer script a terminal.
		return n.sh(fmt.Sprintf("echo %s | script -qec 'dpkg -P secexec-hostagent' /dev/null", answer))
	}
	if out := terminal("n"); !strings.Contains(out, "Delete the guests on this node with their disks (one)? [y/N]") {
		t.Errorf("purge did not ask: %s", out)
	}
	n.sh("test -d /var/lib/secexec/guests/one")
	n.install(older, "secexec-hostagent")
	terminal("y")
	n.sh("! test -e /var/lib/secexec")
}
