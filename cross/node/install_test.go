package node

import (
	"strings"
	"testing"
)

// The package in a fresh node: the socket serves, the first call starts
// hostagent, the journal tells of it, and removal and purge take everything away.
func TestInstall(t *testing.T) {
	t.Parallel()
	n := start(t)
	n.install(older, "secexec", "secexec-hostagent")

	n.want("systemctl is-enabled hostagent.socket hostagent.service secexec-guests.service", "enabled\nenabled\nenabled")
	n.want("systemctl is-active hostagent.socket secexec-guests.service", "active\nactive")
	n.want("systemctl is-active hostagent.service || true", "inactive")
	n.want("stat -c '%a %U %G' /run/secexec/hostagent.sock /var/lib/secexec /etc/secexec/hostagent.yaml", "660 root secexec\n700 root root\n644 root root")
	n.want("getent group secexec | cut -d: -f1", "secexec")

	if out := n.sh("secexec node 2>&1 || true"); !strings.Contains(out, "Secure Execution") {
		t.Errorf("secexec node on a machine without Secure Execution: %s", out)
	}
	n.want("systemctl is-active hostagent.service", "active")
	n.until("systemctl show -P StatusText hostagent.service | grep -q guests")
	n.until("journalctl -u hostagent.service -o cat | grep -q 'hostagent serves'")
	n.want("systemctl show -P OOMScoreAdjust -P NRestarts -P WatchdogUSec hostagent.service", "30s\n0\n-500")
	n.want("systemctl --failed --plain --no-legend", "")
	n.want("systemctl show -P NeedDaemonReload hostagent.service", "no")

	n.until("journalctl -x -u hostagent.service | grep -q 'Subject: hostagent serves its socket'")
	n.want("systemctl is-enabled hostagent-metrics.socket || true", "disabled")
	n.sh("systemctl stop hostagent; systemctl enable --now hostagent-metrics.socket; systemctl start hostagent")
	n.until(`bash -c 'exec 3<>/dev/tcp/127.0.0.1/9745; printf "GET /metrics HTTP/1.0\r\n\r\n" >&3; grep -q ^secexec_ <&3'`)

	// A changed settings file stays; so does the administrator's choice of units.
	n.sh("echo '# ours' >>/etc/secexec/hostagent.yaml; systemctl disable hostagent.service")
	pid := n.sh("systemctl show -P MainPID hostagent.service")
	n.install(newer, "secexec-hostagent")
	n.want("tail -n 1 /etc/secexec/hostagent.yaml", "# ours")
	n.want("systemctl is-enabled hostagent.service || true", "disabled")
	n.until(`(secexec node --json || true) | grep -q '"version": "` + newer + `"'`)
	if now := n.sh("systemctl show -P MainPID hostagent.service"); now == pid || now == "0" {
		t.Errorf("hostagent's process was %s before the upgrade and is %s after it", pid, now)
	}

	n.sh("dpkg -r secexec-hostagent")
	n.want("systemctl is-active hostagent.socket hostagent-metrics.socket hostagent.service || true", "inactive\ninactive\ninactive")
	n.want("ls /run/secexec/hostagent.sock 2>&1 || true", "ls: cannot access '/run/secexec/hostagent.sock': No such file or directory")
	n.sh("test -d /var/lib/secexec && test -f /etc/secexec/hostagent.yaml")
	n.sh("dpkg -P secexec-hostagent secexec </dev/null")
	n.sh("! ls -d /var/lib/secexec /etc/secexec /etc/apparmor.d/secexec-qemu /etc/systemd/system/*/hostagent* /etc/systemd/system/*/secexec* 2>/dev/null")
	n.want("systemctl --failed --plain --no-legend", "")

	// A node comes back from nothing.
	n.install(older, "secexec", "secexec-hostagent")
	n.want("systemctl is-enabled hostagent.socket hostagent.service", "enabled\nenabled")
	n.sh("secexec ps")
}

// Who is neither root nor of the group is turned away; a member is served.
func TestGroup(t *testing.T) {
	t.Parallel()
	n := start(t)
	n.install(older, "secexec", "secexec-hostagent")
	n.sh("useradd -G secexec member; useradd stranger")
	n.sh("runuser -u member -- secexec ps")
	if out, err := n.try("runuser -u stranger -- secexec ps"); err == nil {
		t.Errorf("a stranger was served: %s", out)
	}
}
