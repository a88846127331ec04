package containerd

import (
	"strings"
	"testing"
)

// ctr run boots a sealed guest, shows its console and ends with the status of its
// program; then nothing is left.
func TestRun(t *testing.T) {
	t.Parallel()
	e := newEngine(t, "fail")
	cmd, console := e.foreground("fail", "web")
	_ = cmd.Run()
	if status := cmd.ProcessState.ExitCode(); status != 3 || !strings.Contains(console.String(), "guest: ends by itself") {
		t.Errorf("status %d\n%s", status, console)
	}
	e.ctr("containers", "rm", "web")
	e.clean()
}
