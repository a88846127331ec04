package guest

import (
	"flag"
	"os"
	"testing"
)

// Most tests wait for time to pass: more of them at once than there are CPUs.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
