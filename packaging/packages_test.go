// Package packaging holds the Debian and RPM packages' sources; build.sh makes
// them. Its tests judge the packages by the tools of the distributions.
package packaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// need skips a test where a program is missing.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("no %s: run cross/setup.sh", name)
		}
	}
}

func long(t *testing.T) {
	t.Helper()
	if os.Getenv("SECEXEC_LONG") == "" {
		t.Skip("set SECEXEC_LONG=1 (make test-node)")
	}
}

// run runs a program and returns what it prints.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// build makes packages and returns their folder.
func build(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "./build.sh", append([]string{"-o", dir}, args...)...)
	return dir
}

func glob(t *testing.T, pattern string, want int) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != want {
		t.Fatalf("%d of %s, want %d: %v", len(found), pattern, want, err)
	}
	return found
}

// All packages of all architectures please their distributions' judges.
func TestPackagesAreClean(t *testing.T) {
	t.Parallel()
	long(t)
	need(t, "go", "dpkg-deb", "rpmbuild", "lintian", "rpmlint")
	dir := build(t)
	debs, rpms := glob(t, dir+"/*.deb", 5), glob(t, dir+"/*.rpm", 5)
	// Warnings are errors here; what lintian merely notes is not.
	out := run(t, "lintian", append([]string{"--allow-root", "--fail-on", "error,warning"}, debs...)...)
	if strings.Contains(out, "unused-override") {
		t.Errorf("lintian: %s", out)
	}
	out = run(t, "rpmlint", append([]string{"-c", "rpm/rpmlint.toml"}, rpms...)...)
	if !strings.Contains(out, "5 packages and 0 specfiles checked; 0 errors, 0 warnings") {
		t.Errorf("rpmlint: %s", out)
	}
}

// The same sources give the same bytes, in another folder and another umask too.
func TestPackagesAreReproducible(t *testing.T) {
	t.Parallel()
	long(t)
	need(t, "go", "dpkg-deb", "rpmbuild")
	first := build(t, "-a", "amd64")
	second := t.TempDir()
	run(t, "sh", "-c", "umask 077; TZ=Asia/Tokyo LANG=C.UTF-8 TMPDIR=$0 ./build.sh -a amd64 -o $0", second)
	for _, path := range slices.Concat(glob(t, first+"/*.deb", 2), glob(t, first+"/*.rpm", 2)) {
		a, errA := os.ReadFile(path)
		b, errB := os.ReadFile(filepath.Join(second, filepath.Base(path)))
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %v, %v", filepath.Base(path), errA, errB)
		}
	}
}

// files lists a package's files, without folders and documentation.
func files(listing string) []string {
	var out []string
	for line := range strings.Lines(listing) {
		path := strings.TrimPrefix(strings.TrimSpace(line), ".")
		if path == "" || strings.HasSuffix(path, "/") || strings.HasPrefix(path, "/usr/share/doc") || strings.HasPrefix(path, "/usr/share/licenses") ||
			strings.Contains(path, "/man1/") || strings.HasPrefix(path, "/usr/share/lintian") {
			continue
		}
		out = append(out, path)
	}
	slices.Sort(out)
	return out
}

// Each format installs the same, but where its distributions have another place.
func TestContents(t *testing.T) {
	t.Parallel()
	long(t)
	need(t, "go", "dpkg-deb", "rpmbuild", "rpm")
	dir := build(t, "-a", "s390x")
	want := map[string][]string{
		"secexec": {
			"/usr/bin/secexec", "/usr/lib/secexec/s390x/guestagent", "/usr/lib/secexec/s390x/guestinit",
			"/usr/share/bash-completion/completions/secexec", "/usr/share/fish/vendor_completions.d/secexec.fish",
		},
		"secexec-hostagent": {
			"/etc/apparmor.d/secexec-qemu", "/etc/secexec/hostagent.yaml", "/usr/bin/containerd-shim-secexec-v2", "/usr/bin/hostagent",
			"/usr/lib/systemd/catalog/secexec.catalog",
			"/usr/lib/systemd/system/hostagent-metrics.socket", "/usr/lib/systemd/system/hostagent.service", "/usr/lib/systemd/system/hostagent.socket", "/usr/lib/systemd/system/secexec-guests.service",
			"/usr/lib/systemd/system/secexec.slice",
			"/usr/lib/modules-load.d/secexec-hostagent.conf",
			"/usr/lib/sysusers.d/secexec-hostagent.conf", "/usr/lib/tmpfiles.d/secexec-hostagent.conf",
			"/usr/share/man/man5/hostagent.yaml.5.gz", "/usr/share/man/man8/hostagent.8.gz",
		},
	}
	only := map[string][2]string{
		"secexec":           {"/usr/share/zsh/vendor-completions/_secexec", "/usr/share/zsh/site-functions/_secexec"},
		"secexec-hostagent": {"", "/usr/lib/systemd/system-preset/90-secexec-hostagent.preset"},
	}
	for name, common := range want {
		deb, rpm := glob(t, dir+"/"+name+"_*.deb", 1)[0], glob(t, dir+"/"+name+"-[0-9]*.rpm", 1)[0]
		for i, listing := range []string{
			run(t, "sh", "-c", `dpkg-deb --fsys-tarfile "$0" | tar -t`, deb),
			run(t, "rpm", "-qp", "--qf", `[%{FILEMODES:perms} %{FILENAMES}\n]`, rpm),
		} {
			if i == 1 { // folders end in / as tar's
				listing = regexp.MustCompile(`(?m)^d\S+ (.*)$`).ReplaceAllString(listing, "$1/")
				listing = regexp.MustCompile(`(?m)^-\S+ `).ReplaceAllString(listing, "")
			}
			expect := slices.Clone(common)
			if extra := only[name][i]; extra != "" {
				expect = append(expect, extra)
			}
			slices.Sort(expect)
			if got := files(listing); !slices.Equal(got, expect) {
				t.Errorf("%s installs\n%s\nwant\n%s", [2]string{deb, rpm}[i], strings.Join(got, "\n"), strings.Join(expect, "\n"))
			}
		}
		if format := run(t, "dpkg-deb", "-f", deb, "Architecture"); strings.TrimSpace(format) != "s390x" {
			t.Errorf("%s is for %s", deb, format)
		}
	}
}

// An RPM installs into a folder, with its configuration marked as such.
func TestRPMInstalls(t *testing.T) {
	t.Parallel()
	long(t)
	need(t, "go", "rpmbuild", "rpm")
	if os.Geteuid() != 0 {
		t.Skip("rpm --root wants root")
	}
	dir, root := build(t, "-a", "amd64", "rpm"), t.TempDir()
	rpms := glob(t, dir+"/*.rpm", 2)
	// No scriptlets: the folder has no shell. The nodes' tests run the Debian ones.
	rpm := append([]string{"--root", root, "--dbpath", "/var/lib/rpm"}, "-i", "--nodeps", "--noscripts")
	run(t, "rpm", append(rpm, rpms...)...)
	if out := run(t, filepath.Join(root, "usr/bin/hostagent"), "--version"); !strings.HasPrefix(out, "hostagent 0.") {
		t.Errorf("hostagent --version: %s", out)
	}
	query := func(args ...string) string {
		return run(t, "rpm", append([]string{"--root", root, "--dbpath", "/var/lib/rpm"}, args...)...)
	}
	if out := query("-qc", "secexec-hostagent"); out != "/etc/apparmor.d/secexec-qemu\n/etc/secexec/hostagent.yaml\n" {
		t.Errorf("configuration files: %s", out)
	}
	if out := query("-V", "--nodeps", "secexec", "secexec-hostagent"); out != "" {
		t.Errorf("verify: %s", out)
	}
	query("-e", "--noscripts", "secexec-hostagent", "secexec")
	if left, err := os.ReadDir(filepath.Join(root, "usr/bin")); err == nil && len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

var exposure = regexp.MustCompile(`(?m)Overall exposure level for \S+: ([0-9.]+)`)

// exposed returns what systemd makes of a unit's restrictions, 0 to 10.
func exposed(t *testing.T, unit string) float64 {
	t.Helper()
	out := run(t, "systemd-analyze", "security", "--offline=true", "--no-pager", unit)
	m := exposure.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no exposure level in:\n%s", out)
	}
	level, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return level
}

// hostagent's unit is as tight as docs/operations.md says, with each drop-in too.
func TestExposure(t *testing.T) {
	t.Parallel()
	need(t, "systemd-analyze")
	if out, err := exec.Command("systemd-analyze", "security", "--help").CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--offline")) {
		t.Skip("systemd-analyze has no --offline: wants systemd 250")
	}
	service, err := os.ReadFile("../systemd/hostagent.service")
	if err != nil {
		t.Fatal(err)
	}
	for dropin, most := range map[string]float64{"": 2.2, "network.conf": 2.6, "direct.conf": 2.6} {
		text := service
		if dropin != "" {
			more, err := os.ReadFile("../systemd/" + dropin)
			if err != nil {
				t.Fatal(err)
			}
			text = append(slices.Clone(service), more...)
		}
		unit := filepath.Join(t.TempDir(), "hostagent.service")
		if err := os.WriteFile(unit, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if level := exposed(t, unit); level > most {
			t.Errorf("exposure with drop-in %q is %.1f, want %.1f at most", dropin, level, most)
		}
	}
}

// systemd knows every key of the units.
func TestUnitsAreUnderstood(t *testing.T) {
	t.Parallel()
	need(t, "systemd-analyze")
	units, err := filepath.Glob("../systemd/*.s[elo][rci][vkc]*")
	if err != nil || len(units) < 4 {
		t.Fatalf("units %v: %v", units, err)
	}
	out, _ := exec.Command("systemd-analyze", append([]string{"verify", "--man=no", "--recursive-errors=no"}, units...)...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "is not executable: No such file") { // hostagent isn't installed here
			continue
		}
		if strings.Contains(line, "systemd/") || strings.Contains(line, "hostagent") || strings.Contains(line, "secexec") {
			t.Error(strings.TrimSpace(line))
		}
	}
}

// The profile parses, and confines nothing that does not ask for it.
func TestAppArmorProfile(t *testing.T) {
	t.Parallel()
	need(t, "apparmor_parser")
	run(t, "apparmor_parser", "-Q", "-K", "apparmor/secexec-qemu")
	if names := run(t, "apparmor_parser", "-N", "apparmor/secexec-qemu"); !strings.HasSuffix("\n"+names, "\nsecexec-qemu\n") {
		t.Errorf("profiles %q", names)
	}
}

// Scripts parse, as the shell that dpkg and rpm take.
func TestScriptsParse(t *testing.T) {
	t.Parallel()
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		run(t, "sh", "-n", "deb/"+script)
	}
	run(t, "bash", "-n", "build.sh")
}
